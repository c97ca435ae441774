"""Environments that are not what a program expects: homes that cannot be written, python -O, narrow terminals, the C locale, stdout that
takes nothing."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.cli.run import alibi, alibi_inside
from tests.cli.under import under
from tests.fuzzing import THOROUGH, ran
from tests.models import save_tiny

NOWHERE = "/dev/null/nowhere"  # nobody can make it, root included
HOMES = ("HOME", "HF_HOME", "TMPDIR")
LENGTHS = ("--lengths", "12,24", "--targets", "4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m: a tiny Llama; alibi: the same, converted; t.txt: a text."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny("llama", folder / "m")
    (folder / "t.txt").write_text("the bias of a head falls with distance, and what is far away is not seen. " * 6)
    alibi_inside("convert", folder / "m", "-o", folder / "alibi", "--no-verify")
    return folder


def work(place: Path, out: Path) -> list[list[str | Path]]:
    """A conversion with its verification, an audit, an evaluation and a training run."""
    text: list[str | Path] = ["--text", place / "t.txt"]
    return [
        ["convert", place / "m", "-o", out, "--json"],
        ["verify", out, "--json"],
        ["eval", out, "--baseline", place / "m", *LENGTHS, *text, "--json"],
        ["train", out, "-o", out.with_name(f"{out.name}-healed"), "--steps", "2", "--length", "8", *text, "--json"],
    ]


@pytest.mark.parametrize("names", [HOMES, *((name,) for name in HOMES if THOROUGH)])
def test_homes_that_cannot_be_written_change_nothing(names: tuple[str, ...], place: Path, tmp_path: Path) -> None:
    environment = dict.fromkeys(names, NOWHERE)
    for code, out, err in under(environment, *work(place, tmp_path / "out")):
        assert code == 0 and "Traceback" not in err, err
        json.loads(out)
        ran["commands without a home"] += 1


@pytest.mark.skipif(not THOROUGH, reason="in make fuzz: Python compiles all libraries once more")
def test_without_assertions_the_same_is_done_and_refused(place: Path, tmp_path: Path) -> None:
    """python -O: nothing rests on an assert."""
    bad = ["convert", place / "m", "-o", tmp_path / "out", "--sinks", "-1"]
    again = ["convert", place / "alibi", "-o", tmp_path / "again"]
    here = [alibi_inside(*words, code=None) for words in [*work(place, tmp_path / "a"), bad, again]]
    plain = [(each.returncode, each.stdout, each.stderr) for each in here]
    optimised = under({"PYTHONOPTIMIZE": "1"}, *work(place, tmp_path / "b"), bad, again)
    assert [code for code, _, _ in plain] == [code for code, _, _ in optimised] == [0, 0, 0, 0, 2, 2]
    assert plain[-1][2] == optimised[-1][2]
    losses = [[row["nll"] for row in json.loads(found[2][1])["rows"]] for found in (plain, optimised)]
    assert losses[0] == losses[1]
    ran["commands under python -O"] += len(optimised)


def test_paths_that_are_not_ascii_in_the_c_locale(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "größe 模型"
    folder.mkdir()
    (folder / "m").symlink_to(place / "m")
    (folder / "tëxt.txt").write_text((place / "t.txt").read_text() + "é模" * 40)
    commands = work(folder, folder / "öut")
    commands[2] += ["--output", folder / "ergebnis-é.json"]
    commands = [[word if word != folder / "t.txt" else folder / "tëxt.txt" for word in words] for words in commands]
    for code, _, err in under({"LC_ALL": "C"}, *commands):
        assert code == 0 and "Traceback" not in err, err
    assert json.loads((folder / "ergebnis-é.json").read_text(encoding="utf-8"))["text"]["name"] == "tëxt.txt"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    refused = alibi("verify", folder / "öut", env=ascii_only, code=2)
    assert (
        refused.stderr.count("\n") == 2
        and "cannot be written in the encoding of this environment, ascii" in refused.stderr
    )
    ran["commands in the C locale"] += len(commands) + 1


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


COMMANDS: dict[str, list[str]] = {
    "slopes": ["inspect", "slopes", "alibi"],
    "bias": ["inspect", "bias"],
    "env": ["env"],
    "policies": ["inspect", "policies"],
    "presets": ["inspect", "presets"],
    "plan": ["inspect", "plan", "m", "-o", "x"],
    "heads": ["inspect", "heads", "m", "--text", "t.txt"],
    "convert": ["convert", "m", "-o", "out", "--force", "--no-verify"],
    "convert --dry-run": ["convert", "m", "-o", "out", "--force", "--dry-run"],
    "verify": ["verify", "alibi"],
    "eval": ["eval", "alibi", "--baseline", "m", *LENGTHS, "--text", "t.txt"],
    "eval --dry-run": ["eval", "alibi", "--baseline", "m", *LENGTHS, "--text", "t.txt", "--dry-run"],
    "task": ["task", "listops", "alibi", "--lengths", "128", "--samples", "1"],
    "train": ["train", "alibi", "-o", "out", "--force", "--steps", "1", "--length", "8", "--text", "t.txt"],
    "bench": ["bench", "attention", "--lengths", "16", "--backends", "eager"],
}


def test_every_command_is_in_the_list() -> None:
    from alibi_cli.cli.app import COMMANDS as KNOWN

    known = {tuple(words.split()) for words, (module, _) in KNOWN.items() if module is not None}
    tried = {tuple(words[:2]) for words in COMMANDS.values()} | {(words[0],) for words in COMMANDS.values()}
    assert known - tried == {("export",), ("report",)}  # which write files and print as verify does


@contextmanager
def stdout(stream: TextIO) -> Iterator[None]:
    before, sys.stdout = sys.stdout, stream
    try:
        yield
    finally:
        sys.stdout = before


def ended(words: list[str], stream: TextIO, monkeypatch: Any) -> tuple[int, str]:
    """(exit code, stderr) of a command that prints to `stream`."""
    from alibi_cli.cli.app import main

    monkeypatch.setattr(sys, "argv", ["alibi", *words])
    errors = StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with stdout(stream):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, errors.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stdout_that_takes_nothing(name: str, place: Path, monkeypatch, tmp_path: Path) -> None:
    """Closed, and full: one line after the work, exit code 1, nothing half-written."""
    monkeypatch.chdir(place)
    for kind, says in (("closed", "it is closed"), ("full", "No space left on device")):
        stream = Path("/dev/full").open("w")  # noqa: SIM115 - closed here, or by nobody
        if kind == "closed":
            stream.close()
        code, err = ended(COMMANDS[name], stream, monkeypatch)
        assert code == 1 and f"Error: Cannot write to stdout: {says}." in err and "Traceback" not in err, err
        assert not list(place.glob("*.partial")) and not list(place.glob("*.lock"))
        ran["commands whose stdout takes nothing"] += 1


@pytest.mark.parametrize("name", COMMANDS)
def test_forty_columns(name: str, place: Path, monkeypatch) -> None:
    """Whatever the width of the terminal, no number is cut."""
    monkeypatch.chdir(place)
    printed = {}
    for columns in ("40", "300"):
        for variable, value in {"COLUMNS": columns, "TERM": "xterm", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(variable, value)
        terminal = Terminal()
        code, err = ended(COMMANDS[name], terminal, monkeypatch)
        assert code == 0 and "Traceback" not in err, err
        printed[columns] = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "…" not in printed["40"] or "…" in printed["300"]
    if name in ("eval", "slopes"):  # whose figures are the same each time
        found, expected = (sorted(re.findall(r"\d+\.\d{3,}", printed[columns])) for columns in ("40", "300"))
        assert expected and found == expected
    ran["commands in forty columns"] += 1
