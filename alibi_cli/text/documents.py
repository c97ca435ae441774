"""The text that is scored: named documents with a fingerprint."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError
from alibi_cli.text import python_docs

DEFAULT = "python-docs"
# A document is cut into tokens in one piece, which takes some 150 bytes of memory per character; a file is read in one piece.
MAX_CHARACTERS, MAX_FILE_BYTES = 50_000_000, 1_000_000_000


@dataclass(frozen=True)
class Text:
    """documents: (name, text) pairs. sha256 covers names and texts in order, so it changes with any of them."""

    name: str
    documents: list[tuple[str, str]]

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

    def fingerprint(self) -> dict[str, str | int]:
        return {"name": self.name, "sha256": self.sha256, "documents": len(self.documents), "bytes": self.n_bytes}


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
    name, found = open_text(dataset, files, split_on=split_on, column=column)
    documents = list(islice(found, max_documents))
    if not documents:
        raise UsageError(f"{name} holds no text.")
    return Text(name, documents)


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
    documents = [(name, _bounded(name, content)) for name, content in pairs if content.strip()]
    if not documents:
        raise UsageError("`text` holds none.")
    return Text("text in memory", documents)


def embedded_or_files(files: Sequence[Path]) -> "Text":
    """Files to learn from, or the embedded text's training documents."""
    if not files:
        return as_text(None, training=True)
    name, found = open_text(files=files)
    return Text(name, list(found))


def open_text(
    dataset: str | None = None,
    files: Iterable[Path] = (),
    *,
    split_on: str = "file",
    column: str = "text",
    training: bool = False,
) -> tuple[str, Iterable[tuple[str, str]]]:
    """(name, documents as they are read); the arguments and errors of `load_text`.

    training: take the embedded text's training documents instead of the held-out ones, and a dataset's split "train".
    """
    files = list(files)
    if files and dataset:
        raise UsageError("Give `text` or `dataset`, not both.")
    if files:
        return ", ".join(path.name for path in files), _from_files(files, split_on)
    if dataset in (None, DEFAULT):
        return DEFAULT, python_docs.documents(held_out=not training)
    return str(dataset), _from_dataset(str(dataset), column, "train" if training else "test")


def _from_files(files: list[Path], split_on: str) -> Iterable[tuple[str, str]]:
    for path in files:
        try:
            with path.open("rb") as file:  # which may be a device that never ends
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise UsageError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes.", "Split it.")
            text = content.decode("utf-8")
        except OSError as error:
            raise UsageError(f"Cannot read {path}: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text (byte {error.start}).") from None
        if "\x00" in text:
            raise UsageError(f"{path} is not text: it holds NUL bytes.")
        if split_on == "file":
            parts = [(path.name, text)]
        else:
            blocks = text.replace("\r\n", "\n").split("\n\n")
            parts = [(f"{path.name}#{i}", block) for i, block in enumerate(blocks)]
        for name, part in parts:
            if part.strip():
                yield name, _bounded(name, part)


def _bounded(name: str, text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"{name} is a document of {len(text):,} characters; at most {MAX_CHARACTERS:,} can be cut into tokens.",
            "Split it, or use `split_on=blank-line` if blank lines separate its documents.",
        )
    return text


def _from_dataset(spec: str, column: str, default_split: str) -> Iterable[tuple[str, str]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    path, config, split, *rest = [*spec.split(":"), "", ""]
    if any(rest):
        raise UsageError(f"{spec!r} is not path, path:config or path:config:split.")
    try:
        rows = load_dataset(path, config or None, split=split or default_split, streaming=True)
    except DatasetNotFoundError:
        raise UsageError(f"There is no dataset {path}.") from None
    except (
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # unknown config or split, unreachable Hub, a dataset that is a script
        raise UsageError(f"Dataset {spec} cannot be read: {str(error).splitlines()[0]}") from None
    for index, row in enumerate(rows):
        if column in row and row[column] is None:
            continue
        if not isinstance(row.get(column), str):
            raise UsageError(
                f"{spec} has no text column {column!r}; its columns: {', '.join(row)}.",
                hint="Name it with `text_column`.",
            )
        if row[column].strip():
            yield f"{path}#{index}", _bounded(f"{path}#{index}", row[column])
