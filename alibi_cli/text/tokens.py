"""Documents as tokens, with the bytes that each token stands for."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from alibi_cli.errors import AlibiError
from alibi_cli.text.documents import Text

MASKED_SHARE = 0.15  # of the tokens that a masked model fills in (Devlin et al. 2019)


@dataclass(frozen=True)
class TokenizedDocument:
    """ids: (N,) int64 tokens without special ones. byte_ends: (N,) int64, how many bytes of the text tokens 0…i cover; None if the
    tokenizer cannot tell."""

    name: str
    ids: np.ndarray
    byte_ends: np.ndarray | None

    def bytes_of(self, positions: np.ndarray) -> np.ndarray | None:
        """(n,) bytes that the tokens at `positions` stand for; text that a tokenizer drops, such as spaces, counts with what follows."""
        if self.byte_ends is None:
            return None
        starts = np.concatenate([[0], self.byte_ends[:-1]])
        return (self.byte_ends - starts)[positions]

    def cut(self, n_tokens: int) -> "TokenizedDocument":
        return TokenizedDocument(
            self.name, self.ids[:n_tokens], None if self.byte_ends is None else self.byte_ends[:n_tokens]
        )


def ids_of(text: str, tokenizer: Any, special: bool = False) -> list[int]:
    """The tokens of a text. special: with those that the tokenizer itself puts around it."""
    return list(_encoded(text, tokenizer, add_special_tokens=special)["input_ids"])


def _encoded(text: str, tokenizer: Any, **options: Any) -> Any:
    return tokenizer(
        text, verbose=False, **options
    )  # verbose: it would warn of texts that are longer than its model reads


def tokenize(text: Text, tokenizer: Any) -> list[TokenizedDocument]:
    return [_tokenize(name, document, tokenizer) for name, document in text.documents]


def _tokenize(name: str, text: str, tokenizer: Any) -> TokenizedDocument:
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = _encoded(text, tokenizer, add_special_tokens=False, return_offsets_mapping=fast)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    if not fast:
        return TokenizedDocument(name, ids, None)
    character_ends = np.asarray([end for _, end in encoded["offset_mapping"]], dtype=np.int64).reshape(-1)
    bytes_before = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text], dtype=np.int64)])
    byte_ends = np.maximum.accumulate(bytes_before[character_ends]) if len(ids) else character_ends
    return TokenizedDocument(name, ids, byte_ends)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """(prefix, suffix): what the tokenizer itself puts around a text: [CLS] and [SEP], <s>, or nothing."""
    bare, whole = ids_of("a", tokenizer), ids_of("a", tokenizer, special=True)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def end_of_text(tokenizer: Any, or_separator: bool = False) -> int | None:
    """What follows a document in a stream of them: EOS, or nothing; `or_separator`: [SEP] where there is no EOS."""
    end: int | None = tokenizer.eos_token_id
    return tokenizer.sep_token_id if end is None and or_separator else end


def first_token(tokenizer: Any) -> int:
    """What lm-evaluation-harness puts before a text: BOS, or EOS where there is none.

    Raises:
        AlibiError: the tokenizer has neither.
    """
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise AlibiError("The lm-eval protocol begins with a BOS or EOS token, and the tokenizer has neither.")
    return int(found)


def enclosed(document: TokenizedDocument, prefix: list[int], suffix: list[int]) -> TokenizedDocument:
    """The document with special tokens, which stand for no bytes, as part of it."""
    ids = np.concatenate([np.array(prefix, dtype=np.int64), document.ids, np.array(suffix, dtype=np.int64)])
    ends = document.byte_ends
    if ends is not None:
        ends = np.pad(ends, (len(prefix), 0))
        ends = np.pad(ends, (0, len(suffix)), mode="edge")
    return TokenizedDocument(document.name, ids, ends)


def tokens_sha256(documents: list[TokenizedDocument]) -> str:
    """Equal for two models exactly if they score the same tokens, so that their losses may be compared."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document.ids).to_bytes(8, "little") + document.ids.astype("<i8").tobytes())
    return digest.hexdigest()


def limit(
    documents: list[TokenizedDocument], segments: int | None, segment_tokens: int, whole_segments: bool
) -> list[TokenizedDocument]:
    """Cuts documents so that about `segments` segments of `segment_tokens` tokens remain, spread over as many documents as possible.

    whole_segments: False counts what is left over at the end of a document, or a short document, as a segment too.
    """
    spare = 0 if whole_segments else segment_tokens - 1
    whole = [(len(document.ids) + spare) // segment_tokens for document in documents]
    if segments is None or not any(whole):
        return documents
    taken, left, more = [0] * len(documents), min(segments, sum(whole)), list(range(len(documents)))
    while left:  # one segment of every document that has another, round after round
        more = [index for index in more if taken[index] < whole[index]]
        for index in more[:left]:
            taken[index] += 1
        left -= min(left, len(more))
    return [document.cut(n * segment_tokens) for document, n in zip(documents, taken, strict=True) if n]
