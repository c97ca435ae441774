"""Kills calibrations with SIGKILL after so many of their states are written, and continues them; prints one JSON object.

python -m tests.calibration.kill_calibrations SOURCE FOLDER

A program of its own, because it forks: one thread, in a process that has imported everything.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from alibi_cli.calibration import added, distil, divergence, state
from alibi_cli.calibration import calibrate as run
from alibi_cli.calibration.learned import Learned
from alibi_cli.calibration.of_source import calibrate_source
from alibi_cli.models.source import open_source
from alibi_cli.settings.conversion import CalibrateSettings
from alibi_cli.silence import silence_libraries
from alibi_cli.text.documents import Text

TEXT = Text("text", [(f"d{i}", "".join(f"{i} and {j * j} foxes. " for j in range(60 + i))) for i in range(40)])
ADDED = CalibrateSettings(policy="add", calibrate="distil", calibration_tokens=2500, offset=6)
# What is calibrated, and after how many states of which name it is killed.
CASES = {
    "reach": (CalibrateSettings(policy="add", calibration_tokens=400), "reach", 1),
    "distil": (ADDED, "distil", 2),
    "distil, in reach": (ADDED, "reach", 1),
    "distil, replaced": (
        CalibrateSettings(policy="replace", calibrate="distil+norms", calibration_tokens=3000),
        "distil",
        3,
    ),
}


def killed(work: Callable[[], object], name: str, after: int) -> bool:
    """Runs in a process of its own, which ends once the state `name` was written `after` times; True if it did."""
    child = os.fork()
    if child == 0:
        save, written = state.State.save, []

        def counted(self: state.State, what: str, value: object) -> None:
            save(self, what, value)
            written.append(what)
            if written.count(name) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        state.State.save = counted
        try:
            work()
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def calibrated(source: Path, folder: Path, settings: CalibrateSettings) -> tuple[Learned, list[str], int]:
    """What was found, what was said, and how many steps of distillation it took."""
    said: list[str] = []
    steps: list[str] = []

    def update(what: str, done: float, of: float) -> None:
        if what.startswith("Distilling"):
            steps.append(what)

    return calibrate_source(open_source(str(source)), TEXT, settings, update, said.append, folder), said, len(steps)


def same(one: Learned, other: Learned) -> bool:
    keys = ("kl_curve", "kl_curve_held_out", "kl_nats_per_token", "tokens")
    return (
        (one.slopes, one.offsets, one.sinks) == (other.slopes, other.offsets, other.sinks)
        and all(torch.equal(one.changed[name], other.changed[name]) for name in one.changed)
        and all(one.record[key] == other.record[key] for key in keys)
    )


def main(source: Path, folder: Path) -> dict[str, dict]:
    found = {}
    for case, (settings, name, after) in CASES.items():
        work = partial(calibrated, source, folder, settings)
        whole, _, steps = work()
        shutil.rmtree(folder)
        dead = killed(work, name, after)
        again, said, steps_left = work()
        shutil.rmtree(folder)
        continued = any(line.startswith("Continuing") for line in said)
        found[case] = {"killed": dead, "continued": continued, "same": same(whole, again), "steps": [steps_left, steps]}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    state.SECONDS = 0  # every step is written
    run.HELD_OUT_TOKENS = 256
    added.TOKENS_PER_BATCH = divergence.TOKENS_PER_BATCH = distil.TOKENS_PER_STEP = 256  # more and shorter steps
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
