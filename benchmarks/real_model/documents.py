"""A document of the study: a file of a package of PyPI, pinned, and how its text is read out of it."""

import bz2
import csv
import gzip
import hashlib
import html
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.real_model.packages import archive, member

LENGTH = 16_384  # tokens that are fed; a document has at least one more, the last that is scored


class TextChanged(Exception):
    """A package does not hold the text that was pinned."""


def plain(content: bytes) -> str:
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def debate(content: bytes, name: str) -> str:
    """The transcript of one of several debates in a table of speakers and statements."""
    rows = csv.DictReader(io.StringIO(gzip.decompress(content).decode()))
    return "\n\n".join(f"{row['speaker']}: {row['statement'].strip()}" for row in rows if row["debate"] == name)


def news(content: bytes, table: str) -> str:
    """The first articles of a zipped table, with their titles, until there are 100,000 characters."""
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        rows = list(csv.DictReader(io.StringIO(zipped.read(table).decode("utf-8", errors="replace"))))
    parts: list[str] = []
    for row in rows:
        if sum(map(len, parts)) > 100_000:
            break
        parts.append(f"{row['title']}\n\n{row['text'].strip()}")
    return "\n\n\n".join(parts)


def article(content: bytes, title: str) -> str:
    """A Wikipedia article out of a compressed dump, without references, templates, tables and pictures."""
    dump = bz2.decompress(content).decode()
    found = re.search(rf"<title>{re.escape(title)}</title>.*?<text[^>]*>(.*?)</text>", dump, re.DOTALL)
    if found is None:
        raise TextChanged(f"The dump has no article {title!r}.")
    text = html.unescape(html.unescape(found[1]))  # once for the XML, once for the entities of the wiki itself
    text = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>|<gallery.*?</gallery>", "", text, flags=re.DOTALL)
    for pattern, kept in (
        (r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", ""),
        (r"\[\[(?:File|Image|Category):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", ""),
        (r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1"),
    ):
        count = 1
        while count:  # they nest
            text, count = re.subn(pattern, kept, text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|<[^>]+>", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@dataclass(frozen=True)
class Document:
    """name: of its records. kind: "prose" or "code". package: with its version. path: inside its archive, which is a wheel unless `sdist`.
    sha256: of the text as UTF-8. read: makes the text from the file. start: the text begins where this is first found in it."""

    name: str
    kind: str
    package: str
    path: str
    sha256: str
    sdist: bool = False
    read: Callable[[bytes], str] = plain
    start: str = ""

    def text(self) -> str:
        """
        Raises:
            PipFailed: the package cannot be downloaded.
            TextChanged: this is not the text that was pinned.
        """
        text = self.read(member(archive(self.package, self.sdist), self.path))
        text = text[text.index(self.start) :]
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != self.sha256:
            raise TextChanged(f"{self.name} ({self.path} of {self.package}) has the sha256 {found}, not {self.sha256}.")
        return text
