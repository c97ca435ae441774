"""Documents as tokens, with the bytes that each token stands for."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alibi_cli.errors import AlibiError
from alibi_cli.text.documents import Text

MASKED_SHARE = 0.15  # of the tokens that a masked model fills in (Devlin et al. 2019)


@dataclass(frozen=True)
class TokenizedDocument:
    """A document, or a part of one.

    ids: (N,) int64 tokens without special ones. byte_ends: (N,) int64, where in the document's text, in bytes of UTF-8, each token ends;
    None if the tokenizer cannot tell. index: of the document in the text. start, start_byte: where in the document the first token stands
    and where it begins.
    """

    name: str
    ids: np.ndarray
    byte_ends: np.ndarray | None
    index: int = 0
    start: int = 0
    start_byte: int = 0

    def spans(self, positions: np.ndarray) -> np.ndarray | None:
        """(2, n) bytes of the document's text at which the tokens at `positions` begin and end. What a tokenizer drops, such as spaces,
        belongs to the token that follows, and a character of several tokens to the first of them."""
        if self.byte_ends is None:
            return None
        begins = np.concatenate([[self.start_byte], self.byte_ends[:-1]])
        return np.stack([begins[positions], self.byte_ends[positions]])

    def part(self, begin: int, end: int) -> "TokenizedDocument":
        """Tokens [begin, end) as a text of their own."""
        start_byte, ends = self.start_byte, self.byte_ends
        if ends is not None:
            start_byte, ends = int(ends[begin - 1]) if begin else start_byte, ends[begin:end]
        return replace(self, ids=self.ids[begin:end], byte_ends=ends, start=self.start + begin, start_byte=start_byte)


def ids_of(text: str, tokenizer: Any, special: bool = False) -> list[int]:
    """The tokens of a text. special: with those that the tokenizer itself puts around it."""
    return list(_encoded(text, tokenizer, add_special_tokens=special)["input_ids"])


def _encoded(text: str, tokenizer: Any, **options: Any) -> Any:
    return tokenizer(
        text, verbose=False, **options
    )  # verbose: it would warn of texts that are longer than its model reads


def tokenize(text: Text, tokenizer: Any) -> list[TokenizedDocument]:
    return [_tokenize(index, name, document, tokenizer) for index, (name, document) in enumerate(text.documents)]


def _tokenize(index: int, name: str, text: str, tokenizer: Any) -> TokenizedDocument:
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = _encoded(text, tokenizer, add_special_tokens=False, return_offsets_mapping=fast)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    if not fast:
        return TokenizedDocument(name, ids, None, index)
    character_ends = np.asarray([end for _, end in encoded["offset_mapping"]], dtype=np.int64).reshape(-1)
    bytes_before = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text], dtype=np.int64)])
    byte_ends = np.maximum.accumulate(bytes_before[character_ends]) if len(ids) else character_ends
    return TokenizedDocument(name, ids, byte_ends, index)


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
        ends = np.pad(ends, (len(prefix), 0), constant_values=document.start_byte)
        ends = np.pad(ends, (0, len(suffix)), mode="edge")
    return replace(document, ids=ids, byte_ends=ends)


def tokens_sha256(documents: list[TokenizedDocument]) -> str:
    """Equal for two models exactly if they score the same tokens, so that their losses may be compared."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document.ids).to_bytes(8, "little") + document.ids.astype("<i8").tobytes())
    return digest.hexdigest()
