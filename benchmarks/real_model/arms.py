"""The arms of the study: each a name, what it is, and how its model is made."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alibi_cli.evaluation.arms import arm_of
from alibi_cli.models.language_model import ModelInfo, describe
from alibi_cli.models.loading import load_model
from benchmarks.real_model import environment
from benchmarks.real_model.calibration_texts import calibration_files
from benchmarks.real_model.documents import LENGTH
from benchmarks.real_model.environment import TRAINED_LENGTH
from benchmarks.real_model.packages import WORK

HORIZON, HORIZON_LENGTH = 1024, 4096
REACH_LENGTH = TRAINED_LENGTH * 3 // 2
HEALING = ("--length", "1024", "--batch-tokens", "1024", "--steps", "100")
UNIFORM = 5 / TRAINED_LENGTH  # the best of 5, 10 and 20 / L in a first look


class ArmFailed(Exception):
    """Its checkpoint could not be made."""


@dataclass(frozen=True)
class Arm:
    """name: also that of its records. what: in one sentence. original: what the original is made to do, a name of `arm_of`. command: words
    of `alibi` that make a checkpoint instead, with {start}, {original}, {output} and {uniform} (a file of equal slopes) to be filled in;
    {calibration-text} and {text} are these options, with every document of calibration. start: the arm whose checkpoint {start} is.
    length: tokens that are scored. drawn: it is in the figure."""

    name: str
    what: str
    original: str = "full"
    command: tuple[str, ...] = ()
    start: str = "original"
    length: int = LENGTH
    drawn: bool = False


def _convert(*options: str) -> tuple[str, ...]:
    return ("convert", "{start}", "-o", "{output}", *options)


def _calibrated(method: str, *options: str, length: int = REACH_LENGTH) -> tuple[str, ...]:
    words = ("--policy", "add", "--slopes", "calibrated", "--calibrate", method, "--calibration-length", str(length))
    return _convert(*words, *options, "{calibration-text}")


ARMS = (
    Arm("original", "the model as it is", drawn=True),
    Arm(
        "window+sinks",
        "the original; every token sees the last 8,188 and the first 4",
        original="window+sinks",
        drawn=True,
    ),
    Arm("streaming", "the same, the first 4 rotated as if right before the window", original="streaming"),
    Arm("window", "the original; every token sees the last 8,192", original="window"),
    Arm("linear", "the original, its rotation stretched: positions / 2", original="linear"),
    Arm("dynamic", "the original, its rotation stretched: dynamic NTK, factor 2", original="dynamic"),
    Arm("yarn", "the original, its rotation stretched: YaRN, factor 2", original="yarn", drawn=True),
    Arm("replace-press", "converted: rotation replaced, Press's slopes", command=_convert(), drawn=True),
    Arm(
        "replace-healed",
        "replace-press, then trained on 102,400 tokens in windows of 1,024, its teacher the original",
        command=("train", "{start}", "-o", "{output}", "--teacher", "{original}", *HEALING, "{text}"),
        start="replace-press",
    ),
    Arm(
        "add-uniform",
        "converted: rotation kept, slope 5 / 8,192 on all heads from the first token on, 4 sinks",
        command=_convert("--policy", "add", "--slopes", "{uniform}", "--sinks", "4"),
        drawn=True,
    ),
    Arm(
        "add-reach",
        "converted: rotation kept, slopes and number of sinks by reach",
        command=_calibrated("reach"),
        drawn=True,
    ),
    Arm(
        "add-reach-short",
        "the same, calibrated for the 12,288 tokens of its window alone",
        command=_calibrated("reach", "--max-sequence-length", str(REACH_LENGTH)),
    ),
    Arm("add-reach-no-sinks", "add-reach without sinks", command=_calibrated("reach", "--sinks", "0")),
    Arm(
        "add-distil",
        "converted: rotation kept, slopes and offsets by distil, as many sinks as reach",
        command=_calibrated("distil", length=LENGTH),
    ),
    Arm(
        "horizon-window+sinks",
        "the original; every token sees the last 1,020 and the first 4",
        original=f"window+sinks:{HORIZON}",
        length=HORIZON_LENGTH,
    ),
    Arm(
        "horizon-add-reach",
        "converted for a horizon of 1,024: rotation kept, slopes and number of sinks by reach",
        command=_calibrated("reach", "--horizon", str(HORIZON), length=HORIZON * 2),
        length=HORIZON_LENGTH,
    ),
    Arm(
        "horizon-add-distil",
        "the same, slopes and offsets then by distil",
        command=_calibrated(
            "distil", "--horizon", str(HORIZON), "--calibration-tokens", "49152", length=HORIZON_LENGTH
        ),
        length=HORIZON_LENGTH,
    ),
)


def named(name: str) -> Arm:
    """
    Raises:
        KeyError: there is no such arm.
    """
    return {arm.name: arm for arm in ARMS}[name]


def checkpoint(arm: Arm) -> Path:
    """The folder of its model; made if it is not there.

    Raises:
        ArmFailed: the command that makes it did not exit with 0.
    """
    if not arm.command:
        return environment.model()
    folder, log = WORK / "checkpoints" / arm.name, WORK / "logs" / f"{arm.name}.log"
    if (folder / "study.json").is_file():
        return folder
    words = words_of(arm.name, folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("a") as file:
        file.write(f"$ {shlex.join(['alibi', *words])}\n")
        file.flush()
        command = [sys.executable, "-m", "alibi_cli", *words, "--json", "--force"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False, env=os.environ)
    if result.returncode:
        raise ArmFailed(f"alibi {words[0]} exited with {result.returncode}; see {log}")
    shown = shlex.join(["alibi", *words]).replace(str(Path.cwd()), ".")
    made = {"command": shown, "seconds": round(time.monotonic() - started, 1), "report": json.loads(result.stdout)}
    (folder / "study.json").write_text(json.dumps(made) + "\n")
    return folder


def words_of(name: str, output: Path) -> list[str]:
    """The words of `alibi` that make an arm's checkpoint, there."""
    return list(_filled(named(name), output))


def _filled(arm: Arm, output: Path) -> Iterator[str]:
    for word in arm.command:
        if word in ("{calibration-text}", "{text}"):
            for file in calibration_files():
                yield from (f"--{word.strip('{}')}", str(file))
        elif word == "{uniform}":
            yield str(_uniform())
        elif word in ("{start}", "{original}"):
            yield str(checkpoint(named(arm.start if word == "{start}" else "original")))
        else:
            yield word.format(output=output)


def _uniform() -> Path:
    heads = json.loads((environment.model() / "config.json").read_text())["num_attention_heads"]
    file = WORK / "uniform.json"
    file.write_text(json.dumps([UNIFORM] * heads))
    return file


@contextmanager
def loaded(info: ModelInfo, arm: Arm, length: int, device: str) -> Iterator[Any]:
    """Its model, ready for sequences of `length` tokens."""
    model = load_model(info, device)
    with arm_of(model, arm.original, trained_length=TRAINED_LENGTH, length=length):
        yield model


def info_of(arm: Arm) -> ModelInfo:
    """
    Raises:
        ArmFailed: as `checkpoint`.
    """
    return describe(str(checkpoint(arm)))
