"""Several processes give what one gives; what goes wrong in one of them ends all of them in one message."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alibi_cli import AlibiError
from alibi_cli.evaluation.processes import Processes
from alibi_cli.text.documents import load_text
from tests.cli.run import alibi_here
from tests.conftest import REPOSITORY
from tests.evaluation import faulty_processes
from tests.evaluation.kill_evaluations import facts
from tests.fuzzing import ran
from tests.models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [document[:600].replace("\n\n", "\n") for _, document in load_text().documents[:9]]
    path.write_text("\n\n".join(documents))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as the processes of torchrun have: with another number of threads, sums are made in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(model: Path, text: Path, output: Path, *more: str) -> list[str]:
    options = ["--split-on", "blank-line", "--batch-size", "2", "--protocol", "non-overlapping"]
    return ["eval", str(model), "--text", str(text), "--output", str(output), *options, *more]


def launch(*arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Processes under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*launcher, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def same(one: Path, other: Path) -> bool:
    """All figures and all losses, bit for bit; times and the command apart."""
    (results, record), (results2, record2) = facts(one), facts(other)
    results["command"] = results2["command"]
    bits = [np.array_equal(record[key], record2[key]) for key in record.keys() & record2.keys()]
    return results == results2 and record.keys() == record2.keys() and all(bits)


def test_two_processes_resume_what_one_began_to_the_same_bits(model: Path, text: Path, tmp_path: Path) -> None:
    one, both = tmp_path / "one.json", tmp_path / "both.json"
    alibi_here(*command(model, text, one, "--lengths", "16,64"))
    alibi_here(*command(model, text, both, "--lengths", "16"))
    begun = facts(both)[0]["rows"]
    assert not same(one, both)
    result = launch("-m", "alibi_cli", *command(model, text, both, "--lengths", "16,64", "--resume", "--json"))
    assert result.returncode == 0, result.stderr
    assert same(one, both) and [row["length"] for row in begun] == [16]
    assert json.loads(result.stdout) == json.loads(both.read_text())  # one of them prints, and it is one object
    assert len(list(tmp_path.iterdir())) == 4
    ran["rows that two processes shared"] += 2
    tensors = load_file(both.with_suffix(".nll.safetensors"))
    name = next(name for name in sorted(tensors) if name.endswith(" nll"))
    tensors[name][-1] = np.nextafter(tensors[name][-1], np.float32(9))
    save_file(tensors, both.with_suffix(".nll.safetensors"))
    assert not same(one, both)  # the control: the last bit of one loss


def test_what_happens_to_one_process_happens_to_all(model: Path, tmp_path: Path) -> None:
    result = launch(faulty_processes.__file__, tmp_path, model)
    assert result.returncode != 0 and "SIGKILL" in result.stderr  # the last fault
    found, of_the_other = json.loads((tmp_path / "found.json").read_text())
    assert found == of_the_other
    assert found["none"] == {"16": "ok", "64": "ok"}
    assert found["memory"] == {"16": "ok", "64": "out_of_memory"}
    assert found["number"] == {"16": "non_finite", "64": "non_finite"}
    assert found["error"] == ["The weights cannot be read.", "Mend the disk.", 2]
    ran["faults in one of two processes"] += 4
    assert found["passkey"] == faulty_processes.outcomes(str(model))
    killed, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    assert [row["length"] for row in facts(killed)[0]["rows"]] == [16]
    faulty_processes.scored(str(model), killed, resume=True)
    faulty_processes.scored(str(model), whole)
    assert same(killed, whole)


def test_one_model_on_all_devices_is_one_process(model: Path) -> None:
    with pytest.raises(AlibiError, match="one process") as error:
        Processes(1, 2, 1).device("split")
    assert error.value.exit_code == 2
    assert Processes(1, 2, 1).device("cpu") == "cpu" and Processes().device("split") == "split"
