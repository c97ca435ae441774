"""Interrupted, killed, shared between processes, and gone wrong."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from alibi_cli import AlibiError
from alibi_cli.files.lock import exclusive
from alibi_cli.progress import Progress
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.training import trainer
from alibi_cli.training.budget import Budget, Stage
from alibi_cli.training.train import _batches, train
from alibi_cli.training.trainer import COMPLETE, WINDOW, Guard, last_state
from tests.checkpoint.helpers import snapshot
from tests.python import python
from tests.training.helpers import command, device, heal, launch, same_weights, text_file, tiny_converted


class Stop(Exception):
    pass


def interrupted(checkpoint: Path, output: Path, text: Path, at: int | str, **changes: object) -> None:
    """A run that ends after step `at`, before its state is saved, or at "Writing"."""

    def watch(now: Progress) -> None:
        if at == now.what or (now.done == at and "loss" in now.what):
            raise Stop

    settings: dict[str, Any] = dict(steps=12, batch_tokens=128, length=32, text=(text,), split_on="blank-line")
    settings |= dict(device=device(), save_every=3)
    with pytest.raises(Stop):
        train(str(checkpoint), output, **{**settings, **changes}, progress=watch)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path)


def test_a_killed_run_ends_as_if_it_had_not_been_killed(text: Path, tmp_path: Path) -> None:
    """Dropout and accumulated gradients too: random states and half-filled steps must be right. Every run is a process of its own,
    as users' are: nothing that this one has loaded or registered can play a part."""
    source = tiny_converted(tmp_path, "gpt2", resid_pdrop=0.1)
    options = ["--steps", "120", "--batch-size", "2", "--save-every", "40", "--json"]
    whole, killed = (command(source, tmp_path / name, text, *options) for name in ("whole", "killed"))
    assert python(*whole[1:]).returncode == 0
    process = subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    work = tmp_path / "killed.training"
    deadline = time.monotonic() + 120
    while not list(work.glob(f"checkpoint-*/{COMPLETE}")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed").exists()
    (work / "checkpoint-90").mkdir()  # a state whose writing was cut short
    (work / "checkpoint-90" / COMPLETE).write_text('{"step"')
    report = json.loads(python(*killed[1:], "--resume").stdout)
    assert report["resumed_at"] in ([40], [80]) and not work.exists()
    assert same_weights(tmp_path / "whole", tmp_path / "killed"), report["losses"][-1]


@pytest.mark.parametrize(("family", "slopes"), [("llama", False), ("llama", True), ("qwen3_moe", False)])
def test_an_interrupted_run_continues_exactly(family: str, slopes: bool, text: Path, tmp_path: Path) -> None:
    """qwen3_moe: its experts have other names in files, and the Trainer alone would begin with the original's again."""
    source = tiny_converted(tmp_path, family)
    how = {"teacher": str(tmp_path / family), "train_slopes": slopes}
    whole = heal(source, tmp_path / "whole", text, steps=12, **how)
    interrupted(source, tmp_path / "out", text, at=5, **how)
    assert last_state(tmp_path / "out.training")[1]["step"] == 3
    with pytest.raises(AlibiError, match="holds step 3 of a run that was not finished") as error:
        heal(source, tmp_path / "out", text, steps=12, **how)
    assert error.value.exit_code == 2
    interrupted(source, tmp_path / "out", text, at=11, resume=True, **how)
    interrupted(source, tmp_path / "out", text, at="Writing", resume=True, **how)
    assert not (tmp_path / "out").exists()
    again = heal(source, tmp_path / "out", text, steps=12, resume=True, **how)
    assert again.resumed_at == [3, 9, 12] and same_weights(tmp_path / "whole", tmp_path / "out")
    config = [
        json.loads((tmp_path / name / "config.json").read_text())
        for name in ("whole", "out", "llama-alibi")[: 2 + slopes]
    ]
    assert config[0] == config[1] and (not slopes or config[0]["alibi_slopes"] != config[2]["alibi_slopes"])
    assert [row.model_dump() for row in again.losses] == [row.model_dump() for row in whole.losses]


def test_a_finished_run_is_not_in_its_own_way(text: Path, tmp_path: Path) -> None:
    """A program can be ended just after its work is done, before or after what it kept is gone, and be continued by a batch system."""
    source, out, work = tiny_converted(tmp_path), tmp_path / "out", tmp_path / "out.training"
    interrupted(source, out, text, at="Writing")
    shutil.copytree(work, tmp_path / "kept")
    how: dict[str, Any] = {"steps": 12, "resume": True, "save_every": 3}  # the very command once more
    report = heal(source, out, text, **how)
    before, said = snapshot(out), []
    again = heal(source, out, text, **how, progress=said.append)
    shutil.copytree(tmp_path / "kept", work)
    assert report == again == heal(source, out, text, **how)
    assert [str(each) for each in said] == [f"{out} holds this run, finished; nothing was trained."]
    assert snapshot(out) == before and not work.exists()

    with pytest.raises(AlibiError, match="is not empty"):
        heal(source, out, text, steps=12)
    with pytest.raises(AlibiError, match="is not empty"):
        heal(source, out, text, steps=12, resume=True, seed=1)
    with pytest.raises(AlibiError, match="is not empty"):  # another result is asked for
        heal(source, out, text, steps=12, resume=True, learning_rate=1e-12)
    interrupted(source, out, text, at=5, force=True, learning_rate=1e-12)  # begun once more: what it kept is continued
    assert heal(source, out, text, steps=12, resume=True, force=True, learning_rate=1e-12).resumed_at == [3]
    with (out / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(AlibiError, match="is not empty"):
        heal(source, out, text, steps=12, resume=True)


def test_a_continuation_has_the_same_data_and_may_have_another_learning_rate(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    interrupted(source, tmp_path / "out", text, at=5)
    for name, value in [("seed", 1), ("length", 16), ("steps", 13)]:
        with pytest.raises(AlibiError, match=rf"other settings: {name} was") as error:
            heal(source, tmp_path / "out", text, **{"steps": 12, "resume": True, name: value})
        assert error.value.exit_code == 2
    heal(source, tmp_path / "whole", text, steps=12)
    heal(source, tmp_path / "out", text, steps=12, resume=True, learning_rate=1e-12)
    assert not same_weights(tmp_path / "whole", tmp_path / "out")
    interrupted(source, tmp_path / "still", text, at=5)
    heal(source, tmp_path / "still", text, steps=12, resume=True, learning_rate=1e-12, save_every=1)
    assert same_weights(tmp_path / "out", tmp_path / "still")
    interrupted(source, tmp_path / "again", text, at=5)
    heal(source, tmp_path / "again", text, steps=12, force=True)
    assert same_weights(tmp_path / "whole", tmp_path / "again")


def test_a_state_and_its_marker_are_on_the_disk_before_the_older_one_goes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(trainer, "fsync", flushed.append)
    heal(tiny_converted(tmp_path), tmp_path / "out", text, steps=2, save_every=1)
    newest = tmp_path / "out.training" / "checkpoint-2"
    assert flushed[-3:] == [newest / COMPLETE, newest, newest.parent]
    assert newest / "model.safetensors" in flushed[:-3]


def test_one_run_at_a_time_has_an_output_and_what_appears_there_meanwhile_is_kept(text: Path, tmp_path: Path) -> None:
    source, seen = tiny_converted(tmp_path), []

    def watch(now: Progress) -> None:
        if "loss" in now.what and now.done == 2:
            with pytest.raises(AlibiError, match="Another run is writing"), exclusive(tmp_path / "out.training"):
                pass
            seen.append(now.done)
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "precious").touch()

    settings: dict[str, Any] = dict(steps=3, batch_tokens=128, length=32, text=(text,), split_on="blank-line")
    with pytest.raises(AlibiError, match="is not empty"):
        train(str(source), tmp_path / "out", save_every=3, device=device(), **settings, progress=watch)
    assert seen == [2] and [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    assert last_state(tmp_path / "out.training")[1]["step"] == 3 and not list(tmp_path.glob("*.lock"))
    with exclusive(tmp_path / "out.training"), pytest.raises(AlibiError, match="Another run is writing"):
        heal(source, tmp_path / "out", text, steps=3, force=True)
    report = heal(source, tmp_path / "out", text, steps=3, save_every=3, resume=True, force=True)
    assert report.resumed_at == [3] and not (tmp_path / "out" / "precious").exists()


THREADS_AT_THE_END = """
import atexit, contextlib, os, pathlib, sys
from alibi_cli.cli import main
def names():
    for file in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield file.read_text().strip()
atexit.register(lambda: pathlib.Path(sys.argv[0]).with_suffix(f".{os.getpid()}").write_text(" ".join(names())))
main()
"""


def test_two_processes_train_as_one(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    one = heal(source, tmp_path / "one", text, steps=10, teacher=str(tmp_path / "llama"))
    more = ["--steps", "10", "--teacher", str(tmp_path / "llama"), "--json"]
    (tmp_path / "program.py").write_text(THREADS_AT_THE_END)
    result = launch(2, ["python", str(tmp_path / "program.py"), *command(source, tmp_path / "two", text, *more)[3:]])
    assert result.returncode == 0, result.stderr
    at_the_end = [file.read_text() for file in tmp_path.glob("program.*[0-9]")]
    # A thread of the process group that is still there aborts the program now and then, after all is done and written.
    assert len(at_the_end) == 2 and not any("gloo" in names for names in at_the_end)
    two = json.loads(result.stdout)
    assert two["processes"] == 2 and one.processes == 1
    for name in ("loss", "ce", "kd"):
        assert [row[name] for row in two["losses"]] == pytest.approx(
            [getattr(row, name) for row in one.losses], rel=1e-5
        )
    with pytest.raises(AlibiError, match="cannot share evenly"):
        _batches(
            TrainSettings(checkpoint="m", output=tmp_path, steps=1),
            Budget(32, 3, (Stage(length=32, steps=1),)),
            processes=2,
        )


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    with pytest.raises(AlibiError, match=r"stopped at step \d+: the (loss|norm of the gradient) is") as error:
        heal(source, tmp_path / "out", text, steps=30, learning_rate=1e30, warmup=1.0, save_every=1)
    assert error.value.exit_code == 1 and "`learning_rate`" in error.value.hint and "`resume`" in error.value.hint
    assert not (tmp_path / "out").exists() and last_state(tmp_path / "out.training") is not None
    with pytest.raises(AlibiError, match="stopped") as error:
        heal(source, tmp_path / "none", text, steps=30, learning_rate=1e30, warmup=1.0)
    assert "No step had been saved" in error.value.hint and not list(tmp_path.glob("none*"))


def test_the_guard_stops_divergence_and_lets_noise_pass() -> None:
    guard = Guard(str)
    for step in range(200):
        guard.check(step, 3.0 - step / 100 + (0.8 if step % 7 == 0 else 0.0))
    with pytest.raises(AlibiError, match="diverges"):
        for step in range(200, 200 + WINDOW):
            guard.check(step, 6.0)
    for bad in (math.nan, math.inf):
        with pytest.raises(AlibiError, match="stopped at step 4: the loss is"):
            Guard(str).check(4, bad)
        with pytest.raises(AlibiError, match="gradient"):
            Guard(str).check_gradient(4, bad)
