"""What mkdocs.yml cannot say: pages that stand elsewhere in the repository, and links that leave docs/.

README.md is the home page, CHANGELOG.md and its like are pages, notebooks are shown as pages, and any other file or folder that a page
links to is copied under files/. So the Markdown reads on a repository host as it is, and the site reads without a network.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = "docs"
# In the repository: on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "examples/convert_and_measure.ipynb": "start/convert_and_measure.md",
    "examples/alibi_in_your_own_model.ipynb": "guides/alibi_in_your_own_model.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
SCHEME = re.compile(r"[a-z]+:")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside docs/, and whatever else pages link to."""
    pages = {file.src_uri: f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()}
    for source, uri in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, uri, content=markdown_of(ROOT / source)))
            pages[uri] = source
    for source in sorted({target for page in pages.values() for target in outside(page)}):
        path = ROOT / source
        if path.is_dir():
            for inner in sorted(path.rglob("*.*")):
                if inner.is_file() and "__pycache__" not in inner.parts:
                    _add(files, config, inner)
            files.append(File.generated(config, uri_of(source), content=listing(path)))
        else:
            _add(files, config, path)
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Links go where the site has what they name."""
    here = page.file.src_uri
    if here == PAGES["README.md"]:
        page.meta["hide"] = ["navigation"]  # which would be one line
    source = {uri: name for name, uri in PAGES.items()}.get(here, f"{DOCS}/{here}")
    return relinked(markdown, source, here)


def _add(files: Files, config: Any, path: Path) -> None:
    uri = uri_of(path.relative_to(ROOT).as_posix())
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def targets(text: str) -> Iterator[re.Match[str]]:
    """Relative links outside of code blocks."""
    code = [found.span() for found in FENCE.finditer(text)]
    for found in LINK.finditer(text):
        if not SCHEME.match(found[2]) and not any(begin <= found.start() < end for begin, end in code):
            yield found


def resolved(source: str, target: str) -> str:
    """A link of a file of the repository as a path from its root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def outside(source: str) -> Iterator[str]:
    """What a file of the repository links to and the site would not have."""
    for found in targets(markdown_of(ROOT / source)):
        path = resolved(source, found[2])
        if path not in PAGES and not path.startswith(f"{DOCS}/") and (ROOT / path).exists():
            yield path


def uri_of(path: str) -> str:
    """Where the site has a file or folder of the repository."""
    if path in PAGES:
        return PAGES[path]
    if (ROOT / path / "README.md").is_file():
        path = f"{path}/README.md"
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    return f"files/{path}/index.md" if (ROOT / path).is_dir() else f"files/{path}"


def relinked(text: str, source: str, here: str) -> str:
    """The text of `source`, a file of the repository, as the page `here` of the site."""
    parts, end = [], 0
    for found in targets(text):
        path = resolved(source, found[2])
        if (ROOT / path).exists():
            relative = posixpath.relpath(uri_of(path), posixpath.dirname(here) or ".")
            parts += [text[end : found.start()], found[1], relative, found[3]]
            end = found.end()
    return "".join([*parts, text[end:]])


def markdown_of(path: Path) -> str:
    """A file's Markdown; a notebook's text and code."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    return "\n\n".join(
        [*parts, f"This page is the notebook `{path.relative_to(ROOT).as_posix()}`, which the tests run."]
    )


def listing(folder: Path) -> str:
    """A page with a link to every file of a folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file())
    links = [f"- [{name}]({name})" for name in names if "__pycache__" not in name]
    return "\n".join([f"# {folder.relative_to(ROOT).as_posix()}", "", *links, ""])
