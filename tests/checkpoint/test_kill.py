"""alibi convert, killed: the final name is absent or whole, the source is as it was, the next run succeeds."""

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alibi_cli.conversion.verify import verify
from tests.checkpoint.helpers import snapshot
from tests.cli.run import alibi_here
from tests.conftest import REPOSITORY
from tests.fuzzing import cases, ran
from tests.models import tiny_model
from tests.python import python

ONE_PROCESS = """
import sys
from tests.killing import Meter, arm
from alibi_cli.cli import main
arm(Meter(at_byte=int(sys.argv.pop(1))))
main()
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: flushing hundreds of checkpoints to a disk takes minutes."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def killed(source: Path, workplace: Path, n_bytes: int, *control: str, every: int = 1) -> dict:
    killer = "tests.checkpoint.kill_conversions"
    words = [source, workplace / "work", str(n_bytes), str(every), *control]
    result = python("-m", killer, *words, cwd=REPOSITORY, timeout=7200)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_killed_at_two_hundred_moments(tiny_gpt2: Path, workplace: Path) -> None:
    """Spread over the bytes, and before and after every change of the file system; with and without a folder to be replaced."""
    found = killed(tiny_gpt2, workplace, cases(50, 1000))
    ran["kills of alibi convert"] += found["kills"]
    assert found["failures"] == []
    assert found["kills"] >= 200 and min(found["absent"], found["old"], found["new"]) >= 10


def test_killed_while_several_files_are_written(workplace: Path) -> None:
    tiny_model("llama", torch.float32).save_pretrained(workplace / "source", max_shard_size="60kB")
    assert len(list((workplace / "source").glob("*.safetensors"))) > 2
    found = killed(workplace / "source", workplace, 15, every=cases(3, 1))
    ran["kills of alibi convert, several files"] += found["kills"]
    assert found["failures"] == [] and found["kills"] >= 30


def test_the_killer_finds_out_who_writes_under_the_final_name(tiny_gpt2: Path, workplace: Path) -> None:
    assert any("not whole" in failure for failure in killed(tiny_gpt2, workplace, 8, "--careless", every=8)["failures"])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_process_of_its_own_is_killed(share: float, tiny_gpt2: Path, tmp_path: Path) -> None:
    """The same on the command line, from the start of Python to SIGKILL."""
    before, size = snapshot(tiny_gpt2), (tiny_gpt2 / "model.safetensors").stat().st_size
    words = ["convert", tiny_gpt2, "-o", tmp_path / "out"]
    result = python("-c", ONE_PROCESS, str(int(size * share)), *words, cwd=REPOSITORY)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").is_dir() and snapshot(tiny_gpt2) == before
    assert alibi_here("convert", tiny_gpt2, "-o", tmp_path / "out").exit_code == 0
    assert verify(tmp_path / "out").passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny-gpt2"]
