"""DeepSpeed's ZeRO on two CPU processes: `alibi train` has the losses of one process, and writes a checkpoint that verifies."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from alibi_cli import verify
from tests.conftest import REPOSITORY
from tests.training.helpers import command, heal, text_file, tiny_converted

PYTHON = REPOSITORY / "build" / "deepspeed" / "bin" / "python"
SCRIPT = Path(__file__).parent / "deepspeed_train.py"
PINS = Path(__file__).parent / "deepspeed.txt"
STEPS = 8
GATHER = {"stage3_gather_16bit_weights_on_model_save": True}
AUTOMATIC = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
ZERO: dict[str, Any] = {**dict.fromkeys(AUTOMATIC, "auto"), "zero_allow_untested_optimizer": True}


def launched(words: list[str]) -> subprocess.CompletedProcess[str]:
    """`words` of `command` in two processes that have DeepSpeed."""
    launcher = [str(PYTHON), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    env = {**os.environ, "DS_ACCELERATOR": "cpu"}
    return subprocess.run([*launcher, *words[3:]], capture_output=True, text=True, check=False, env=env, timeout=600)


def configured(folder: Path, **zero: Any) -> Path:
    (folder / "deepspeed.json").write_text(json.dumps({**ZERO, "zero_optimization": zero}))
    return folder / "deepspeed.json"


@pytest.mark.parametrize(("stage", "more"), [(2, {}), (3, GATHER)])
def test_two_processes_with_a_teacher(stage: int, more: dict[str, bool], record: Any, tmp_path: Path) -> None:
    source, text, teacher = tiny_converted(tmp_path), text_file(tmp_path), tmp_path / "llama"
    one = heal(source, tmp_path / "one", text, steps=STEPS, teacher=str(teacher))
    other = heal(source, tmp_path / "other", text, steps=STEPS, teacher=str(teacher), learning_rate=2e-3)
    zero = configured(tmp_path, stage=stage, **more)
    words = ["--steps", str(STEPS), "--save-every", "4", "--teacher", str(teacher), "--deepspeed", str(zero), "--json"]
    result = launched(command(source, tmp_path / "out", text, *words))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(f"ENGINE DeepSpeedEngine {stage}") == 2
    report = json.loads(result.stdout)  # what DeepSpeed says of its compiler goes elsewhere
    assert report["processes"] == 2 and report["verified"]["passed"] and verify(tmp_path / "out").passed
    losses = [row["loss"] for row in report["losses"]]
    difference = max(abs(loss - row.loss) for loss, row in zip(losses, one.losses, strict=True))
    control = max(abs(loss - row.loss) for loss, row in zip(losses, other.losses, strict=True))
    assert difference < 1e-5 < control / 10
    version = next(line for line in PINS.read_text().splitlines() if line.startswith("deepspeed==")).partition("==")[2]
    what = f"ZeRO {stage}, two processes: losses of `alibi train`, of one"
    record("deepspeed", what, difference, control, at=version)


def test_weights_that_could_not_be_written_are_refused_before_the_run(tmp_path: Path) -> None:
    source, text = tiny_converted(tmp_path), text_file(tmp_path)
    zero = configured(tmp_path, stage=3)
    result = launched(command(source, tmp_path / "out", text, "--steps", "1", "--deepspeed", str(zero)))
    assert result.returncode != 0 and "--deepspeed" in result.stderr and "stage3_gather_16bit" in result.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.training").exists()
