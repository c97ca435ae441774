"""What is printed arrives, or the exit code says that it has not; signals end a command in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.models import save_tiny

LIGHT = ["inspect", "slopes", "--json"]


def shell(redirection: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = f'exec "$@" {redirection}'
    run = ["bash", "-c", command, "-", sys.executable, "-m", "alibi_cli", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("words", [LIGHT, ["inspect", "slopes"], ["inspect", "presets"], ["inspect", "bias"]])
@pytest.mark.parametrize(("redirection", "says"), [(">&-", "it is closed"), ("> /dev/full", "No space left on device")])
def test_a_stdout_that_takes_nothing_is_one_line_and_exit_code_1(redirection: str, says: str, words: list[str]) -> None:
    result = shell(redirection, *words)
    assert result.returncode == 1 and result.stderr == f"Error: Cannot write to stdout: {says}.\n"


@pytest.mark.parametrize(
    "words", ["inspect slopes --heads 4096", "inspect slopes --heads 4096 --json", "inspect presets"]
)
def test_a_reader_that_has_seen_enough_is_no_error(words: str) -> None:
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m alibi_cli {words} | head -n 1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0 and result.stderr == "" and result.stdout.count("\n") == 1


NOISE = """
import ctypes, os, sys
print("of Python")
if sys.__stdout__:
    sys.__stdout__.write("of a kept stream\\n")
os.system("echo of a shell")
ctypes.CDLL(None).puts(b"of C")
"""
OTHERS = {"of Python", "of a kept stream", "of a shell", "of C"}
WHILE_A_VERB_WORKS = f"""
from alibi_cli.cli import stdout
with stdout.reserved():
    exec({NOISE!r})
print("the result")
"""


def test_what_others_print_does_not_reach_stdout(tmp_path: Path) -> None:
    (tmp_path / "noise.py").write_text(NOISE)
    result = shell("", "inspect", "policies", "--plugin", tmp_path / "noise.py", "--json")
    assert result.returncode == 0, result.stderr
    assert set(result.stderr.splitlines()) >= OTHERS and "llama" in json.loads(result.stdout)


@pytest.mark.parametrize("redirection", ["", "2>&-", ">&-"])
def test_what_others_print_goes_to_stderr_or_nowhere(redirection: str) -> None:
    command = ["bash", "-c", f'exec "$@" {redirection}', "-", sys.executable, "-c", WHILE_A_VERB_WORKS]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=kept)
    assert result.stdout == ("the result\n" if redirection != ">&-" else "")
    assert redirection or set(result.stderr.splitlines()) == OTHERS


def test_sigterm_ends_as_ctrl_c_does(tmp_path: Path) -> None:
    """As a batch system ends a job: what was saved is kept, and said; no lock and no partial folder is left."""
    source, text = save_tiny("llama", tmp_path / "m"), tmp_path / "t.txt"
    text.write_text("the bias of a head falls with distance " * 400)
    words = [
        "train",
        source,
        "-o",
        tmp_path / "out",
        "--text",
        text,
        "--steps",
        "100000",
        "--length",
        "16",
        "--batch-tokens",
        "64",
    ]
    command = [sys.executable, "-m", "alibi_cli", *map(str, words), "--save-every", "5", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
    state, started = tmp_path / "out.training", time.monotonic()
    while not list(state.glob("checkpoint-*/complete.json")) and time.monotonic() - started < 100:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and out == ""
    assert re.search(r"Error: Terminated.\nStep \d+ is kept: --resume continues from it.\n$", err), err
    assert "Traceback" not in err
    assert list(state.glob("checkpoint-*/complete.json")) and not list(tmp_path.glob("*.lock"))
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_what_is_left_of_an_output(tmp_path: Path) -> None:
    from alibi_cli.cli import interrupts

    file = tmp_path / "model.gguf"
    file.write_text("of an earlier run")
    interrupts.leaves_output(file)
    assert interrupts.error()[0].hint == f"{file} is as it was."
    (tmp_path / "new").write_text("whole")
    (tmp_path / "new").replace(file)
    assert interrupts.error()[0].hint == f"{file} is whole."
    file.unlink()
    assert interrupts.error()[0].hint == "Nothing was written."
    interrupts.leaves_output(file, lambda: 1 / 0)  # what cannot be said does not hide the interrupt
    assert interrupts.error()[0].hint is None and interrupts.error()[1] == 130


def test_a_command_says_where_it_is_once_a_minute_without_a_terminal(monkeypatch, capsys) -> None:
    from alibi_cli.cli import output
    from alibi_cli.progress import Progress

    monkeypatch.setattr(output, "LOG_EVERY", 0.0)
    with output.progress() as watch:
        watch(Progress("Training", 3, 10))
        watch(Progress("Writing", 2_000_000, 8_000_000, "bytes"))
    assert capsys.readouterr().err == "Training: 3/10\nWriting: 2.0 MB of 8.0 MB\n"
