"""Ends commands by SIGINT and SIGTERM at moments spread over their run, continues them, and compares with runs that nobody disturbed.

Prints one JSON object:

python -m tests.interrupt_commands FOLDER MOMENTS

A program of its own, because it forks: one thread, in a process that has imported everything.
"""

import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from alibi_cli.cli import app
from alibi_cli.silence import silence_libraries
from tests.checkpoint.helpers import convert, snapshot
from tests.evaluation.kill_evaluations import facts
from tests.models import save_tiny

SAID = {signal.SIGINT: (130, "Error: Interrupted."), signal.SIGTERM: (143, "Error: Terminated.")}


class Verb:
    """words: of the command. again: of its continuation. result: what it wrote, without times. left: what an interrupt says of it."""

    def __init__(self, words: list[str], again: list[str], result: Callable[[], Any], left: Callable[[], str]):
        self.words, self.again, self.result, self.left = words, again, result, left


def verbs(folder: Path) -> dict[str, Verb]:
    text = ["--text", str(folder / "t.txt")]
    evaluate = ["eval", str(folder / "alibi"), "--baseline", str(folder / "m"), "--lengths", "8:64", *text]
    calibrate = ["convert", str(folder / "m"), "-o", str(folder / "out"), "--policy", "add", "--slopes", "calibrated",
                 "--calibrate", "distil", "--calibration-tokens", "4000", "--calibration-text", str(folder / "t.txt")]  # fmt: skip
    train = ["train", str(folder / "alibi"), "-o", str(folder / "out"), "--steps", "24", "--length", "16", "--batch-tokens", "64",
             "--save-every", "4", "--device", "cpu", *text]  # fmt: skip

    def weights() -> list[tuple[str, bytes]]:
        found = load_file(folder / "out" / "model.safetensors")
        return sorted((name, tensor.tobytes()) for name, tensor in found.items())

    def slopes() -> Any:
        return json.loads((folder / "out" / "config.json").read_text())

    def rows_left() -> str:
        there = (folder / "out.json").is_file()
        return f"Finished rows are in {folder / 'out.json'}; --resume continues" if there else "No row was finished."

    def conversion_left() -> str:
        if (folder / "out").is_dir():
            return f"{folder / 'out'} is whole."
        kept = (folder / "out.calibration").is_dir()
        return "the same command continues from there." if kept else "Nothing was written."

    def step_left() -> str:
        if (folder / "out").is_dir():
            return f"{folder / 'out'} is whole."
        kept = list((folder / "out.training").glob("checkpoint-*/complete.json"))
        return "is kept: --resume continues from it." if kept else "Nothing was written."

    return {
        "eval": Verb(
            [*evaluate, "--output", str(folder / "out.json")],
            [*evaluate, "--output", str(folder / "out.json"), "--resume"],
            lambda: [{k: v for k, v in facts(folder / "out.json")[0].items() if k != "command"}],
            rows_left,
        ),
        "calibrate": Verb(calibrate, [*calibrate, "--force"], slopes, conversion_left),  # it may have its name already
        "train": Verb(train, [*train, "--resume"], weights, step_left),
    }


def run(words: list[str], log: Path, kill: tuple[int, float] | None = None) -> tuple[int, float]:
    """(exit code, seconds) of a command in a process of its own. kill: a signal, and after how many seconds of work it is sent."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            sys.argv, command = ["alibi", *words], app.app

            def begun() -> None:
                os.write(writer, b"x")
                command()

            app.app = begun
            app.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.read(reader, 1)
    os.close(reader), os.close(writer)
    started = time.monotonic()
    if kill is not None:
        time.sleep(kill[1])
        os.kill(child, kill[0])
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def _says(said: str, error: str, left: str) -> bool:
    """One line, and another one unless the command had not begun."""
    _, found, more = said.partition(f"{error}\n")
    return bool(found) and "Traceback" not in said and (not more or (left in more and more.count("\n") == 1))


def clean(folder: Path) -> None:
    for path in folder.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(folder: Path, moments: int) -> dict[str, Any]:
    save_tiny("llama", folder / "m")
    convert(folder / "m", folder / "alibi", check=False)
    (folder / "t.txt").write_text("".join(f"{n} and {n * n} foxes saw what is far away. " for n in range(400)))
    log, found = folder / "log.txt", {"ended": {}, "finished": 0, "failures": []}
    before = {name: snapshot(folder / name) for name in ("m", "alibi")}
    for name, verb in verbs(folder).items():
        clean(folder)
        code, seconds = run(verb.words, log)
        assert code == 0, log.read_text()
        expected = verb.result()
        for moment in range(moments):
            clean(folder)
            number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
            code, _ = run(verb.words, log, (number, seconds * (moment + 0.5) / moments))
            where, said = f"{name}, {number.name}, {moment} of {moments}", log.read_text()
            if code == 0:
                found["finished"] += 1
            elif code != SAID[number][0] or not _says(said, SAID[number][1], verb.left()):
                found["failures"].append(f"{where}: exit {code}: {said[-600:]}")
            else:
                found["ended"][name] = found["ended"].get(name, 0) + 1
            left = [path.name for path in folder.iterdir() if path.name.endswith((".lock", ".partial"))]
            if left or any(snapshot(folder / each) != was for each, was in before.items()):
                found["failures"].append(f"{where}: left {left}, or a source that changed")
            if code != 0:
                code, _ = run(verb.again, log)
                if code != 0 or verb.result() != expected:
                    found["failures"].append(
                        f"{where}: continued to exit {code}, or to another result: {log.read_text()[-600:]}"
                    )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    os.environ["HF_HUB_OFFLINE"] = "1"
    gc.freeze()
    json.dump(main(Path(sys.argv[1]), int(sys.argv[2])), sys.stdout)
