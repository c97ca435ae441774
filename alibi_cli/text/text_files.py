"""Documents from text files, folders of them, and what is piped in."""

import sys
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from alibi_cli.errors import UsageError

# Files of rows, and who reads them.
ROWS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# A document is cut into tokens in one piece, which takes some 150 bytes of memory per character; a file is read in one piece.
MAX_CHARACTERS, MAX_FILE_BYTES = 50_000_000, 1_000_000_000


def expanded(path: Path) -> list[Path]:
    """A folder's .txt and .md files, and what a pattern matches, in alphabetical order; any other path as it is.

    Raises:
        UsageError: a folder or a pattern without files.
    """
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix in (".txt", ".md") and each.is_file())
    elif not path.exists() and any(sign in str(path) for sign in "*?["):
        found = sorted(Path(each) for each in glob(str(path), recursive=True) if Path(each).is_file())  # noqa: PTH207 - absolute patterns
    else:
        return [path]
    if not found:
        raise UsageError(f"{path} holds no text files{' (.txt, .md)' if path.is_dir() else ''}.")
    return found


def from_files(files: list[Path], split_on: str, normalised: list[str]) -> Iterable[tuple[str, str]]:
    for path in files:
        if path.suffix in ROWS:
            raise UsageError(f"{path} holds rows, not text.", "Give it as `dataset`.")
        text = _read(path)
        if text.startswith("\ufeff"):
            text = text[1:]
            normalised.append(f"{path.name}: byte order mark left out")
        if "\r\n" in text:
            text = text.replace("\r\n", "\n")
            normalised.append(f"{path.name}: CRLF became LF")
        parts = [(path.name, text)]
        if split_on != "file":
            parts = [(f"{path.name}#{index}", block) for index, block in enumerate(text.split("\n\n"))]
        for name, part in parts:
            if part.strip():
                yield name, bounded(name, part)


def _read(path: Path) -> str:
    """A file, or what is piped in where it is called "-"."""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:  # which may be a device that never ends
                content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes.", "Split it.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    if "\x00" in text:
        raise UsageError(f"{path} is not text: it holds NUL bytes.")
    return text


def bounded(name: str, text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"{name} is a document of {len(text):,} characters; at most {MAX_CHARACTERS:,} can be cut into tokens.",
            "Split it, or use `split_on=blank-line` if blank lines separate its documents.",
        )
    return text
