"""The text that is scored: named documents with a fingerprint."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError
from alibi_cli.progress import Say
from alibi_cli.settings.on_disk import expanded
from alibi_cli.text import python_docs
from alibi_cli.text.rows import from_dataset
from alibi_cli.text.text_files import bounded, each_once, from_files

DEFAULT = "python-docs"


@dataclass(frozen=True)
class Text:
    """documents: (name, text) pairs. sha256 covers names and texts in order, so it changes with any of them. normalised: what was changed
    in them when they were read, and what is odd about them."""

    name: str
    documents: list[tuple[str, str]]
    normalised: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name, text in self.documents:
            for part in (name.encode(), text.encode()):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    @property
    def n_bytes(self) -> int:
        return sum(len(text.encode()) for _, text in self.documents)

    def fingerprint(self) -> dict[str, Any]:
        facts = {"name": self.name, "sha256": self.sha256, "documents": len(self.documents), "bytes": self.n_bytes}
        return {**facts, "normalised": list(self.normalised)} if self.normalised else facts


def tell(normalised: Iterable[str], say: Say) -> None:
    """Says what was changed in a text."""
    for remark in normalised:
        say(f"{remark}.")


def load_text(
    dataset: str | None = None,
    files: Iterable[Path] = (),
    *,
    split_on: str = "file",
    column: str = "text",
    max_documents: int | None = None,
) -> Text:
    """The documents of some text files, of the embedded text, or of a dataset.

    Args:
        dataset: "python-docs" (the embedded held-out text, the default), or path[:config[:split]] of anything that
            `datasets.load_dataset` reads; the split is "test" if not given.
        files: text files instead; each is one document, or many separated by blank lines if split_on is "blank-line".
        column: the column of the dataset that holds the text.
        max_documents: take only the first so many.

    Raises:
        AlibiError: nothing to read, or something that is not text.
    """
    normalised: list[str] = []
    name, found = open_text(dataset, files, split_on=split_on, column=column, normalised=normalised)
    documents = list(islice(found, max_documents))
    if not documents:
        raise UsageError(f"{name} holds no text.")
    return Text(name, documents, tuple(normalised))


def as_text(text: Any, training: bool = False) -> "Text":
    """What a library user gives as text: a `Text`, a string, strings, (name, string) pairs; None for the embedded text.

    training: its documents to learn from, not the held-out ones.

    Raises:
        UsageError: it is something else, or holds no text.
    """
    if isinstance(text, Text):
        return text
    if text is None:
        name, found = open_text(training=training)
        return Text(f"{name}, training documents" if training else name, list(found))
    parts = [text] if isinstance(text, str) else list(text)
    pairs = [(f"text {n}", part) if isinstance(part, str) else tuple(part) for n, part in enumerate(parts)]
    if not all(len(pair) == 2 and all(isinstance(each, str) for each in pair) for pair in pairs):
        raise UsageError("`text` is a string, strings, or (name, string) pairs.")
    documents = [(name, bounded(name, content)) for name, content in pairs if content.strip()]
    if not documents:
        raise UsageError("`text` holds none.")
    return Text("text in memory", documents)


def embedded_or_files(files: Sequence[Path]) -> "Text":
    """Files to learn from, or the embedded text's training documents."""
    if not files:
        return as_text(None, training=True)
    return load_text(files=files)


def open_text(
    dataset: str | None = None,
    files: Iterable[Path] = (),
    *,
    split_on: str = "file",
    column: str = "text",
    training: bool = False,
    normalised: list[str] | None = None,
) -> tuple[str, Iterable[tuple[str, str]]]:
    """(name, documents as they are read); the arguments and errors of `load_text`. normalised: see `Text`; is told while they are read.

    training: take the embedded text's training documents instead of the held-out ones, and a dataset's split "train".
    """
    normalised = [] if normalised is None else normalised
    files = each_once((path for each in files for path in expanded(each)), normalised)
    if files and dataset:
        raise UsageError("Give `text` or `dataset`, not both.")
    if files:
        return ", ".join(path.name for path in files), from_files(files, split_on, normalised)
    if dataset in (None, DEFAULT):
        return DEFAULT, python_docs.documents(held_out=not training)
    return str(dataset), from_dataset(str(dataset), column, "train" if training else "test")
