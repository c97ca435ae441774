"""README and documentation: links lead somewhere, commands have the options that they are shown with, code runs, tables are short."""

import ast
import importlib.util
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from alibi_cli.cli.app import app
from alibi_cli.evaluation.tasks import task as tasks
from tests.conftest import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)
WRITTEN = [path for path in PAGES if path.name not in ("CHANGELOG.md",) and path.parent.name != "decisions"]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text: str) -> set[str]:
    """Of the headings, as repository hosts and the site make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def broken(path: Path, text: str) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        there = other.exists() and other.is_relative_to(REPOSITORY)
        if not there or (anchor and anchor not in anchors(text if other == path else other.read_text())):
            yield target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    assert list(broken(path, path.read_text())) == []


def test_broken_links_and_anchors_are_found() -> None:
    path = REPOSITORY / "docs" / "results.md"
    text = "# Here\n[a](nowhere.md) [b](arms.md#nowhere) [c](#here) [d](#there) [e](arms.md#definitions) [f](../../x)\n"
    assert list(broken(path, text)) == ["nowhere.md", "arms.md#nowhere", "#there", "../../x"]


def commands(text: str) -> Iterator[list[str]]:
    for _, language, block in FENCE.findall(text):
        if language == "console":
            for line in re.findall(r"^ *\$ (.+)$", block, re.MULTILINE):
                yield shlex.split(line, comments=True)


def unknown(words: list[str]) -> str | None:
    """What a command line has that alibi or the Makefile does not: an option, a command, a target. Other programs are not checked."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return next((word for word in words[1:] if word not in targets), None)
    if "alibi_cli" in words and words[0] in ("torchrun", "accelerate", "python"):
        words = ["alibi", *words[words.index("alibi_cli") + 1 :]]
    if words[0] != "alibi":
        return None
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return rest[0]
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    return next((option for option in given if option not in {*options, "--help"}), None)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_commands_have_the_options_that_they_are_shown_with(path: Path) -> None:
    assert [(words, wrong) for words in commands(path.read_text()) if (wrong := unknown(words))] == []


def test_unknown_options_and_commands_are_found() -> None:
    text = "```console\n$ alibi convert X --nonsense\n$ alibi fly\n$ make nonsense\n$ alibi eval --lengths 8 # --x\n$ nothing\n```\n"
    assert [unknown(words) for words in commands(text)] == ["--nonsense", "fly", "nonsense", None, None]
    assert unknown(shlex.split("torchrun --nproc-per-node 8 -m alibi_cli eval M --length 4")) == "--length"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_python_in_pages_is_python(path: Path) -> None:
    for indent, language, block in FENCE.findall(path.read_text()):
        if language == "python":
            ast.parse(re.sub(f"^{indent}", "", block, flags=re.MULTILINE))


def test_the_guide_to_your_own_model_runs() -> None:
    page = (REPOSITORY / "docs" / "guides" / "own-model.md").read_text()
    names: dict[str, Any] = {}
    for _, language, block in FENCE.findall(page):
        if language == "python":
            exec(block, names)
    assert names["y"].shape == (2, 100, 64) and names["bias"].shape == (8, 1, 100)
    assert type(names["model"]).__name__ == "AlibiGPT2LMHeadModel"


def test_the_task_of_the_guide_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_registry", dict(tasks._registry))
    page = (REPOSITORY / "docs" / "guides" / "tasks.md").read_text()
    exec(next(block for _, language, block in FENCE.findall(page) if language == "python"), {})
    item = tasks.get_task("echo").item(lambda text: list(text.encode()), 100, None, 0, random.Random(0))
    assert bytes([*item.prompt, *item.target]).decode() == f"{item.text}{item.answer}"


def test_the_readme_is_short_and_results_have_short_tables() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150
    docs = REPOSITORY / "docs"
    for path in (docs / "results.md", docs / "quality.md", *(docs / "results").glob("*.md")):
        for table in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
            assert table.count("\n") - 2 <= (12 if path.stem == "speed" else 10), path


def test_links_of_the_site_go_where_the_site_has_them() -> None:
    hooks = script("site_hooks")
    page = "[a](docs/arms.md#definitions) [b](CHANGELOG.md) ![c](docs/images/alibi.svg) [d](https://x.y) [e](scripts/site_hooks.py)"
    assert hooks.relinked(page, "README.md", "index.md") == (
        "[a](arms.md#definitions) [b](project/changelog.md) ![c](images/alibi.svg) [d](https://x.y) [e](files/scripts/site_hooks.py)"
    )
    text = "[a](../../README.md) [b](../arms.md) [c](../../benchmarks/healing/records) [d](nowhere.md)"
    inner = hooks.relinked(text, "docs/results/speed.md", "results/speed.md")
    assert inner == "[a](../index.md) [b](../arms.md) [c](../files/benchmarks/healing/records/index.md) [d](nowhere.md)"
    assert hooks.relinked("[a](docs/decisions)", "README.md", "index.md") == "[a](decisions/README.md)"
    fenced = "```text\n[a](docs/arms.md)\n```"
    assert hooks.relinked(fenced, "README.md", "index.md") == fenced
