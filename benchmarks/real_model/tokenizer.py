"""SmolLM2's real tokenizer, out of the metadata of a GGUF file, and a check against a second implementation.

transformers builds a tokenizer.json from the file's tokens and merges and leaves out what the file says of pre-tokenisation
(`tokenizer.ggml.pre = smollm`): SmolLM2 cuts every digit off before anything else. Without that, GPT-2's pattern gives the last space of a
run to the number, and `  12` begins with other tokens. `mend` puts it back; `check` compares with byte-pair encoding as it is defined, on
the file's own tokens and merges.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex

# llama.cpp's patterns for `smollm`, one after the other: each cuts the pieces that the one before it left.
SMOLLM = (r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
PROBE = '''def fibonacci(n: int = 10_000, *, base=0x1F) -> "list[int]":
    """Zahlen, größer als 1 234 567,89 … 3.14159e-10 (½ of 2²)."""
    total  =  12      # the 3 numbers, isn't it?  We'll see:   42
\tif n<=2048: return [  1,\t 22,   333]
        \r\n\r\n   \n  x += 7;   y-=1   # don't   1st 2nd 100%

The year 2026, Nov 24th; v1.2.3-rc4, IPv6 ::ffff:192.168.0.1, Room 101B.
日本語の文章、第３章は１２３４頁。中文：二〇二六年 2026年11月24日。 한국어 3.14 текст на русском, 5-й ٣٤٥ Ⅻ
🙂👩‍👩‍👧‍👦 12🙂34 👍🏽 \u00a0 \u2003 9\u200b9 e\u0301 naïve ∑∫√ <b>&amp;</b> {"k": [1, 2.5]} 'quoted' "it's" they've I'd
'''
# As llama.cpp has them, which was asked once (node-llama-cpp 3.22.1), for these and for 767,000 tokens of the study's documents: it agreed
# everywhere but at "(?P<filename>", which the tokenizers library, here as in the original, takes for the special token <filename>.
KNOWN = {
    "12 345": [33, 34, 216, 35, 36, 37],
    "  12\n\n   7": [256, 33, 34, 1004, 39],
    "In 2026, 3.14": [788, 216, 34, 32, 34, 38, 28, 216, 35, 30, 33, 36],
    "x² ½ 日本 ３": [104, 19133, 216, 16738, 17097, 241, 115, 40993, 216, 8083, 237],
}


class WrongTokenizer(Exception):
    """A tokenizer does not cut text as the file's metadata say."""


def mend(folder: Path) -> None:
    """Digits are cut off one by one, before GPT-2's pattern; and the length is the model's, not 10^30."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    path.write_text(json.dumps(content, ensure_ascii=False))
    path = folder / "tokenizer_config.json"
    options = json.loads(path.read_text())
    options["model_max_length"] = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    for key in ("is_local", "local_files_only"):
        options.pop(key, None)
    path.write_text(json.dumps(options, indent=2) + "\n")


def check(tokenizer: Any, reference: "BytePairs", texts: list[str]) -> None:
    """
    Raises:
        WrongTokenizer: it cuts one of the texts, the probe or a known string otherwise, or loses a character.
    """
    for text, expected in KNOWN.items():
        if _ids(tokenizer, text) != expected:
            raise WrongTokenizer(f"{text!r} becomes {_ids(tokenizer, text)}, not {expected}.")
    for text in (PROBE, *texts):
        ours, expected = _ids(tokenizer, text), reference.ids(text)
        if ours != expected:
            at = next(i for i, pair in enumerate(zip(ours, expected, strict=False)) if pair[0] != pair[1])
            raise WrongTokenizer(f"Token {at} differs near {tokenizer.decode(expected[max(0, at - 8) : at + 4])!r}.")
        if tokenizer.decode(ours) != text:
            raise WrongTokenizer(f"A text that begins with {text[:40]!r} does not come back from its tokens.")


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


class BytePairs:
    """Byte-pair encoding as Sennrich et al. (2016, arXiv 1508.07909) define it, on bytes written as GPT-2 writes them.

    tokens, merges: the file's `tokenizer.ggml.tokens` and `.merges`. patterns: of its pre-tokenisation. special: tokens that are cut out of
    the text before anything else.
    """

    def __init__(
        self, tokens: list[str], merges: list[str], patterns: tuple[str, ...] = SMOLLM, special: Sequence[str] = ()
    ):
        self.id_of = {token: index for index, token in enumerate(tokens)}
        self.special = set(special)
        self.special_pattern = regex.compile("|".join(map(regex.escape, special)) or r"(?!)")
        self.rank = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.patterns = [regex.compile(pattern) for pattern in patterns]
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in visible]
        self.written = {byte: chr(byte) for byte in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        self.piece_ids = lru_cache(1 << 16)(self._piece_ids)

    def ids(self, text: str) -> list[int]:
        pieces = _cut(self.special_pattern, text)
        for pattern in self.patterns:
            pieces = [part for piece in pieces for part in ([piece] if piece in self.special else _cut(pattern, piece))]
        return [
            token
            for piece in pieces
            for token in ([self.id_of[piece]] if piece in self.special else self.piece_ids(piece))
        ]

    def _piece_ids(self, piece: str) -> list[int]:
        parts = [self.written[byte] for byte in piece.encode()]
        while len(parts) > 1:
            ranks = [self.rank.get(pair, len(self.rank)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self.rank):
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.id_of[part] for part in parts]


def _cut(pattern: Any, text: str) -> list[str]:
    """What the pattern finds, and what lies between, in order."""
    parts, end = [], 0
    for found in pattern.finditer(text):
        parts += [text[end : found.start()], found[0]]
        end = found.end()
    return [part for part in (*parts, text[end:]) if part]
