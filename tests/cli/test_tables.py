"""Tables in terminals of every kind: figures are whole, names are short, colours only where they are shown."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alibi_cli.cli import output
from tests.reporting.helpers import BASE, flat, results_of

LONG = "runs/2026/smollm2-135m-alibi-kept-calibrated-on-wikitext-seed-0"
ESCAPE = "\x1b["


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "r.json"
    results_of({"HuggingFaceTB/SmolLM2-135M": BASE, LONG: flat(700)}, "HuggingFaceTB/SmolLM2-135M").save(path)
    return path


def printed(results: Path, terminal: bool, **env: str) -> str:
    """What `alibi report` writes to stdout, which is a terminal or a pipe."""
    command = [sys.executable, "-m", "alibi_cli", "report", str(results), "--format", "table"]
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**kept, "TERM": "xterm-256color", **env}
    process = subprocess.Popen(
        command, stdout=theirs if terminal else subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    found = b""
    if terminal:
        try:
            while part := os.read(ours, 1 << 16):
                found += part
        except OSError:  # the other side of the terminal is closed
            pass
    elif process.stdout is not None:
        found = process.stdout.read()
    os.close(ours)
    assert process.wait() == 0
    return found.decode().replace("\r", "")


def figures(text: str) -> list[str]:
    """Perplexities with their intervals, each in one line."""
    return re.findall(r"[\d,]+\.?\d* +[\d,]+\.?\d* – [\d,]+\.?\d*(?= +\d\.\d{4})", text)


def test_eighty_columns_show_every_name_and_figure_in_one_line(results: Path) -> None:
    wide, narrow = printed(results, False), printed(results, True, COLUMNS="80", NO_COLOR="1")
    assert [each.split() for each in figures(narrow)] == [each.split() for each in figures(wide)]
    assert len(figures(wide)) == 12 and max(map(len, narrow.splitlines())) <= 80
    for name in ("SmolLM2-135M:truncated", "smollm2-13…ext-seed-0"):
        assert any(line.startswith(name) for line in narrow.splitlines()), narrow
    assert LONG not in wide and "runs/" not in wide


def test_fewer_columns_make_longer_lines_but_no_shorter_figures(results: Path) -> None:
    tight = printed(results, True, COLUMNS="40", NO_COLOR="1")
    assert len(figures(tight)) == 12 and max(map(len, tight.splitlines())) > 40


def test_colours_are_for_terminals_that_want_them(results: Path) -> None:
    assert ESCAPE in printed(results, True)  # the control
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", printed(results, True, NO_COLOR="1"))
    assert ESCAPE not in printed(results, True, TERM="dumb")
    assert ESCAPE not in printed(results, False)


def test_a_pipe_folds_nothing(results: Path) -> None:
    lines = printed(results, False, COLUMNS="20").splitlines()
    assert any("better than" in line or "worse than truncated" in line for line in lines)
    assert not any(line.strip() in ("tokens", "512") for line in lines)


def test_a_name_can_hold_no_commands_for_the_terminal(capsys: pytest.CaptureFixture) -> None:
    output.print_table("t", ["model", "n"], [["a\x1b[31mb\n[bold]", "1"]], ["n"])
    assert r"a\x1b[31mb\n[bold]" in capsys.readouterr().out
