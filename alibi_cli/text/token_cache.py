"""Tokens of long texts on disk, so that one text is tokenised once for all models that share a tokenizer, and for all runs.

A file's name is the sha256 of everything that its content follows from: the text, the tokenizer as its library writes it out, and the
library's version. So an entry is never stale; it may be deleted at any time. The folder is $HF_HOME/alibi/tokens.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alibi_cli.text.documents import Text
from alibi_cli.text.tokens import TokenizedDocument, tokenize

WORTH_IT = 1 << 20  # bytes of text; less is tokenised as fast as it is looked up
FORMAT = 1


def tokenize_once(text: Text, tokenizer: Any) -> list[TokenizedDocument]:
    """As `tokenize`, from the cache if it is there. A cache that cannot be read or written changes nothing but the time."""
    if text.n_bytes < WORTH_IT or not getattr(
        tokenizer, "is_fast", False
    ):  # slow tokenizers do not tell all that they do
        return tokenize(text, tokenizer)
    path = Path(constants.HF_HOME) / "alibi" / "tokens" / f"{_key(text, tokenizer)}.safetensors"
    documents = _read(path, text)
    if documents is None:
        documents = tokenize(text, tokenizer)
        _write(path, documents)
    return documents


def _key(text: Text, tokenizer: Any) -> str:
    special = getattr(tokenizer, "split_special_tokens", None)
    what = (FORMAT, text.sha256, tokenizers.__version__, type(tokenizer).__name__, special)
    digest = hashlib.sha256(repr(what).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def _read(path: Path, text: Text) -> list[TokenizedDocument] | None:
    try:
        found = load_file(path)
        ids, byte_ends, lengths = found["ids"], found["byte_ends"], found["lengths"]
    except (OSError, SafetensorError, KeyError):
        return None
    if len(lengths) != len(text.documents) or lengths.sum() != len(ids) or len(ids) != len(byte_ends):
        return None
    cuts = np.cumsum(lengths)[:-1]
    parts = zip(text.documents, np.split(ids, cuts), np.split(byte_ends, cuts), strict=True)
    return [
        TokenizedDocument(name, part.astype(np.int64), ends, index)
        for index, ((name, _), part, ends) in enumerate(parts)
    ]


def _write(path: Path, documents: list[TokenizedDocument]) -> None:
    """All at once, by renaming: a reader sees the whole file or none."""
    ends = [document.byte_ends for document in documents if document.byte_ends is not None]
    tensors = {
        "ids": np.concatenate([document.ids for document in documents]).astype(np.int32),
        "byte_ends": np.concatenate(ends),
        "lengths": np.array([len(document.ids) for document in documents], dtype=np.int64),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
            save_file(tensors, Path(folder) / path.name)
            (Path(folder) / path.name).replace(path)
    except (OSError, SafetensorError):  # a full disk, a folder of somebody else: the next run tokenises again
        return
