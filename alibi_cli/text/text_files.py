"""Documents from text files, folders of them, and what is piped in."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from alibi_cli.errors import UsageError
from alibi_cli.files import strict_json
from alibi_cli.settings.on_disk import check_texts

SNIFFED = 3  # lines of a text that are JSON objects, each of them: it is probably rows under another name
# A document is cut into tokens in one piece, which takes some 150 bytes of memory per character; a file is read in one piece.
MAX_CHARACTERS, MAX_FILE_BYTES = 50_000_000, 1_000_000_000


def each_once(files: Iterable[Path], normalised: list[str]) -> list[Path]:
    """Without those that are there already: a text that counts twice would narrow intervals without reason."""
    found: dict[Path, Path] = {}
    for path in files:
        if found.setdefault(path.resolve(), path) is not path:
            normalised.append(f"{path.name}: named twice, read once")
    return list(found.values())


def from_files(files: list[Path], split_on: str, normalised: list[str]) -> Iterable[tuple[str, str]]:
    """normalised: is told what is changed in the files, and what is odd about them."""
    check_texts(files)
    for path in files:
        text = _read(path)
        if text.startswith("\ufeff"):
            text = text[1:]
            normalised.append(f"{path.name}: byte order mark left out")
        for ending, name in (("\r\n", "CRLF"), ("\r", "CR")):
            if ending in text:
                text = text.replace(ending, "\n")
                normalised.append(f"{path.name}: {name} became LF")
        if _is_json_lines(text):
            normalised.append(f"{path.name}: JSON lines, read as text; a file of rows ends in .jsonl")
        parts = [(path.name, text)]
        if split_on != "file":
            parts = [(f"{path.name}#{index}", block) for index, block in enumerate(text.split("\n\n"))]
        for name, part in parts:
            if part.strip():
                yield name, bounded(name, part)


def _is_json_lines(text: str) -> bool:
    lines = list(islice(_lines(text), SNIFFED))
    try:
        return bool(lines) and all(line[0] == "{" and isinstance(strict_json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def _lines(text: str) -> Iterator[str]:
    """Those that are not empty, stripped; a text of which few are wanted is not cut into all of them."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        if line := text[begin:end].strip():
            yield line
        begin = end


def _read(path: Path) -> str:
    """A file, or what is piped in where it is called "-"."""
    try:
        if str(path) == "-":
            if sys.stdin is None:
                raise UsageError("`text=-`: standard input is closed, so nothing can be piped in.")
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
