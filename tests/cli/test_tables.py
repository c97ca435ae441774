"""Tables in terminals of every kind: figures are whole, names are short, colours only where they are shown."""

import contextlib
import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alibi_cli.cli import output
from alibi_cli.evaluation.tables import contrasts_table, results_table
from alibi_cli.progress import Progress
from tests.reporting.helpers import BASE, flat, results_of

LONG = "runs/2026/smollm2-135m-alibi-kept-calibrated-on-wikitext-seed-0"
ESCAPE = "\x1b["


PRINT = """
import json, sys
from alibi_cli.cli.output import print_table
for table in json.load(open(sys.argv[1])):
    print_table(**table)
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tables of an evaluation, as `print_table` takes them: printing them needs no torch."""
    base = "HuggingFaceTB/SmolLM2-135M"
    results = results_of({base: BASE, LONG: flat(700)}, base)
    found = [dataclasses.asdict(table) for table in (results_table(results), contrasts_table(results))]
    path = tmp_path_factory.mktemp("tables") / "tables.json"
    path.write_text(json.dumps([{key: value for key, value in table.items() if key != "small"} for table in found]))
    return path


def printed(tables: Path, terminal: bool, **env: str) -> str:
    """What a command writes to stdout, which is a terminal or a pipe."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT, str(tables)], stdout=theirs, env={**kept, "TERM": "xterm-256color", **env}
    )
    os.close(theirs)
    found = b""
    with contextlib.suppress(OSError):  # how a terminal says that its other side is closed
        while part := os.read(ours, 1 << 16):
            found += part
    os.close(ours)
    assert process.wait() == 0
    return found.decode().replace("\r", "")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def figures(text: str) -> list[str]:
    """Perplexities with their intervals, each in one line."""
    return re.findall(r"[\d,]+\.?\d* +[\d,]+\.?\d* – [\d,]+\.?\d*(?= +\d\.\d{4})", text)


def test_eighty_columns_show_every_name_and_figure_in_one_line(tables: Path) -> None:
    wide, narrow = printed(tables, False), plain(printed(tables, True, COLUMNS="80"))
    assert [each.split() for each in figures(narrow)] == [each.split() for each in figures(wide)]
    assert len(figures(wide)) == 12 and max(map(len, narrow.splitlines())) <= 80
    for name in ("SmolLM2-135M:truncated", "smollm2-1…xt-seed-0"):
        assert any(line.startswith(name) for line in narrow.splitlines()), narrow
    assert "detectable" in narrow and "truncated" in narrow.split("Paired")[1]  # no word is cut
    assert LONG not in wide and "runs/" not in wide


def test_fewer_columns_make_longer_lines_but_no_shorter_figures(tables: Path) -> None:
    tight = plain(printed(tables, True, COLUMNS="40"))
    assert len(figures(tight)) == 12 and max(map(len, tight.splitlines())) > 40


def test_colours_are_for_terminals_that_want_them(tables: Path) -> None:
    assert ESCAPE in printed(tables, True)  # the control
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", printed(tables, True, NO_COLOR="1"))
    assert ESCAPE not in printed(tables, True, TERM="dumb")
    assert ESCAPE not in printed(tables, False)


def test_a_pipe_folds_nothing(tables: Path) -> None:
    lines = printed(tables, False, COLUMNS="20").splitlines()
    assert any("better than" in line or "worse than truncated" in line for line in lines)
    assert not any(line.strip() in ("tokens", "512") for line in lines)


def test_a_name_can_hold_no_commands_for_the_terminal(capsys: pytest.CaptureFixture) -> None:
    output.print_table("t", ["model", "n"], [["a\x1b[31mb\n[bold]", "1"]], ["n"])
    assert r"a\x1b[31mb\n[bold]" in capsys.readouterr().out


def test_a_title_is_folded_to_the_terminal_and_not_to_its_table(tmp_path: Path) -> None:
    title = "fixed-target, K=64: next-token perplexity on python-docs, sha256 3d1e6eb338eb"
    table = tmp_path / "table.json"
    table.write_text(json.dumps([{"title": title, "columns": ["model"], "rows": [["gpt2"]]}]))
    assert [line.rstrip() for line in printed(table, terminal=False).splitlines()] == [title, "model", "gpt2"]
    lines = plain(printed(table, terminal=True, COLUMNS="40")).splitlines()
    assert " ".join(line.strip() for line in lines[:-2]) == title and max(map(len, lines)) <= 40


def test_names_are_no_markup_and_no_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_text("runs/a:100:b\t:key:")
    output.note("runs/a:100:b")
    printed = capsys.readouterr()
    assert printed.out == "runs/a:100:b\t:key:\n" and printed.err == "runs/a:100:b\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with output.progress() as watch:
        watch(Progress("runs[v2] [/b] at 512", 1, 2))
        time.sleep(0.3)
    assert "runs[v2] [/b] at 512" in capsys.readouterr().err
