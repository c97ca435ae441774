"""Two machines, simulated by two launchers that meet on loopback: what they compute, and what is left when one of them is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from alibi_cli import verify
from alibi_cli.training.trainer import COMPLETE
from tests.fuzzing import THOROUGH, ran
from tests.training.helpers import command, heal, launch, same_weights, text_file, tiny_converted, weights

pytestmark = pytest.mark.skipif(not THOROUGH, reason="in make fuzz")


class Machines:
    """A launcher and its workers are a machine."""

    def __init__(self, port: int, arguments: list[str]) -> None:
        meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two"]
        launcher = [sys.executable, "-m", "torch.distributed.run", *meet, "--rdzv-endpoint", f"127.0.0.1:{port}"]
        self.each = [
            subprocess.Popen(
                [*launcher, *arguments[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for _ in range(2)
        ]

    def kill(self, number: int) -> None:
        """All of its processes at once: workers would outlive their launcher."""
        launcher = psutil.Process(self.each[number].pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            process.kill()

    def ended(self) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each."""
        return [
            (process.returncode, *streams) for process in self.each if (streams := process.communicate(timeout=240))
        ]

    def close(self) -> None:
        for number, process in enumerate(self.each):
            if process.poll() is None:
                self.kill(number)


@pytest.fixture
def machines(unused_port: int) -> Iterator[list[Machines]]:
    started: list[Machines] = []
    yield started
    for each in started:
        each.close()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_machines_train_as_one(tmp_path: Path, machines: list[Machines], unused_port: int) -> None:
    source, text = tiny_converted(tmp_path), text_file(tmp_path)
    one = heal(source, tmp_path / "one", text, steps=10)
    machines.append(Machines(unused_port, command(source, tmp_path / "two", text, "--steps", "10", "--json")))
    ended = machines[0].ended()
    assert [code for code, _, _ in ended] == [0, 0], ended
    (report,) = (json.loads(out) for _, out, _ in ended if out)  # one of them prints
    assert report["processes"] == 2
    assert [row["loss"] for row in report["losses"]] == pytest.approx([row.loss for row in one.losses], rel=1e-5)
    assert verify(tmp_path / "two").passed
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    ran["runs of two machines"] += 1


LONG = ("--steps", "400", "--save-every", "20", "--json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(folder with a checkpoint, a text, and "whole", which two processes have trained)"""
    folder = tmp_path_factory.mktemp("whole")
    result = launch(2, command(tiny_converted(folder), folder / "whole", text_file(folder), *LONG))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("gone", [0, 1])
def test_one_of_two_machines_is_gone(
    gone: int, undisturbed: Path, tmp_path: Path, machines: list[Machines], unused_port: int
) -> None:
    """The other ends too and says so; what was saved is kept, and both go on to the weights of an undisturbed run, to the bit."""
    run = command(undisturbed / "llama-alibi", tmp_path / "out", undisturbed / "text.txt", *LONG)
    machines.append(Machines(unused_port, run))
    work, deadline = tmp_path / "out.training", time.monotonic() + 180
    while not list(work.glob(f"checkpoint-*/{COMPLETE}")):
        assert time.monotonic() < deadline, machines[0].each
        time.sleep(0.01)
    machines[0].kill(gone)
    ended = machines[0].ended()
    code, out, err = ended[1 - gone]
    assert code not in (0, -signal.SIGKILL) and out == "" and "Error" in err, ended
    assert not (tmp_path / "out").exists() and work.is_dir()
    machines.append(Machines(unused_port, [*run, "--resume"]))
    ended = machines[1].ended()
    assert [code for code, _, _ in ended] == [0, 0], ended
    (report,) = (json.loads(out) for _, out, _ in ended if out)
    assert 0 < report["resumed_at"][0] < 400 and not work.exists()
    assert verify(tmp_path / "out").passed and same_weights(undisturbed / "whole", tmp_path / "out")
    ran["runs of two machines, one killed"] += 1
