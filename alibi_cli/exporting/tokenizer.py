"""A tokenizer.json as llama.cpp holds it: tokens, kinds and merges, and a name for the pre-tokenizer.

The name follows from what tokenizer.json says, not from a hash of how it cuts one sample (llama.cpp's own way, under which two
tokenizers that cut the sample alike are one). Whether llama.cpp then makes the same ids of a text is for the engine to say.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.text.tokens import special_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
# llama.cpp wants merges, and gguf drops an empty list: this one makes no token, so nothing is ever merged.
NO_MERGES = ["\u0100 \u0100"]
SPACE = "\u2581"  # SentencePiece's

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# {(regular expression, merges ignored where a word is a token): name}
SPLITS = {
    (GPT4 % "1,3", True): "llama-bpe",
    (GPT4 % "1,3", False): "glm4",
    ((GPT4 % "1,3").replace(r"\p{N}{1,3}", r"\p{N}"), False): "qwen2",
}


@dataclass(frozen=True)
class Vocabulary:
    """model: "gpt2" (bytes) or "llama" (SentencePiece). pre: of gpt2. scores: of llama. special: {"bos": id, …}. adds: which of bos and
    eos the tokenizer puts around a text. space_prefix: of llama: a space is put in front of a text."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    adds: tuple[bool, bool]
    space_prefix: bool
    chat_template: str | None

    @property
    def name(self) -> str:
        return self.model if self.model == "llama" else f"{self.model}, {self.pre}"


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer, with unused tokens up to `size`, the rows of the embedding.

    Raises:
        AlibiError: a tokenizer that a GGUF file cannot hold.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise _unknown("it has no tokenizer.json and none can be made of its files")
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model = data["model"]
    if model.get("type") != "BPE":
        raise _unknown(f"a model of the kind {model.get('type')}")
    spaced = bool(model.get("byte_fallback"))
    pre = "" if spaced else _pre_tokenizer(data)
    by_id = {number: text for text, number in model["vocab"].items()}
    extra = {token["id"]: token for token in data["added_tokens"]}
    by_id |= {number: token["content"] for number, token in extra.items()}
    tokens = [by_id.get(number, f"[unused{number}]") for number in range(size)]
    kinds = [_kind(number, by_id.get(number), extra, model.get("unk_token")) for number in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {
        kind: number
        for kind in ("bos", "eos", "unk", "pad")
        if (number := getattr(tokenizer, f"{kind}_token_id", None)) is not None and number < size
    }
    before, after = special_tokens(tokenizer)
    if before not in ([], [special.get("bos")]) or after not in ([], [special.get("eos")]):
        raise _unknown("other tokens than one BOS and one EOS are put around a text")
    return Vocabulary(
        model="llama" if spaced else "gpt2",
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        merges=[] if spaced else merges or NO_MERGES,
        scores=_scores(tokens, merges) if spaced else [],
        special=special,
        adds=(bool(before), bool(after)),
        space_prefix=spaced and _prefixes_space(data),
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _kind(number: int, text: str | None, extra: dict[int, Any], unknown: str | None) -> int:
    if text is None:
        return UNUSED
    if number in extra and text != unknown:
        return CONTROL if extra[number]["special"] else USER_DEFINED
    if text == unknown:
        return UNKNOWN
    return BYTE if len(text) == 6 and text.startswith("<0x") and text.endswith(">") else NORMAL


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece joins the pair whose result has the highest score; merges come in that order, so their ranks serve."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _prefixes_space(data: dict[str, Any]) -> bool:
    """
    Raises:
        AlibiError: spaces are treated in another way than SentencePiece's.
    """
    steps = [*_steps(data["normalizer"]), *_steps(data["pre_tokenizer"])]
    known = {"Prepend", "Replace", "Metaspace", "Split"}
    if unknown := [step["type"] for step in steps if step["type"] not in known]:
        raise _unknown(f"the step {unknown[0]} before SentencePiece's pieces")
    return any(
        (step["type"] == "Prepend" and step["prepend"] == SPACE)
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _pre_tokenizer(data: dict[str, Any]) -> str:
    """llama.cpp's name of what cuts a text before bytes are joined.

    Raises:
        AlibiError: one that llama.cpp has no name for.
    """
    steps, model = list(_steps(data["pre_tokenizer"])), data["model"]
    for step in _steps(data["normalizer"]):
        if (
            step["type"] != "NFC"
        ):  # which llama.cpp leaves out, and which changes nothing in text that is composed already
            raise _unknown(f"the normalizer {step['type']}")
    last = steps[-1] if steps else {"type": None}
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        raise _unknown("a pre-tokenizer that does not end in plain bytes")
    before = steps[:-1]
    if not before:
        if last["use_regex"] or not model["merges"]:
            return "gpt-2"
        raise _unknown("bytes that are merged across words")
    if len(before) == 1 and before[0]["type"] == "Digits" and before[0]["individual_digits"] and last["use_regex"]:
        return "starcoder"
    if len(before) == 1 and before[0]["type"] == "Split" and not last["use_regex"] and not before[0]["invert"]:
        key = before[0]["pattern"].get("Regex", ""), bool(model.get("ignore_merges"))
        if key in SPLITS:
            return SPLITS[key]
        raise _unknown(f"the regular expression {key[0][:60]!r} …")
    raise _unknown(f"the pre-tokenizer {' + '.join(step['type'] for step in steps)}")


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What a normalizer or pre-tokenizer does, one after the other."""
    if part is not None and part["type"] == "Sequence":
        for inner in part.get("normalizers", part.get("pretokenizers", [])):
            yield from _steps(inner)
    elif part is not None:
        yield part


def _unknown(reason: str) -> AlibiError:
    return UsageError(f"Its tokenizer cannot be held by a GGUF file: {reason}.")
