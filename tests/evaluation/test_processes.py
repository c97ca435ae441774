"""Several processes give what one gives; what goes wrong in one of them ends all of them in one message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from alibi_cli.evaluation.text import load_text
from tests.cli.run import alibi, alibi_here
from tests.evaluation.kill_evaluations import facts
from tests.fuzzing import ran
from tests.models import save_tiny

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [document[:600].replace("\n\n", "\n") for _, document in load_text().documents[:9]]
    path.write_text("\n\n".join(documents))
    return path


def command(model: Path, text: Path, output: Path, *more: str) -> list[str]:
    options = ["--split-on", "blank-line", "--batch-size", "2", "--protocol", "non-overlapping", "--lengths", "16,64"]
    return ["eval", str(model), "--text", str(text), "--output", str(output), *options, *more]


def launch(*arguments: str, script: str = "-m alibi_cli", **env: str) -> subprocess.CompletedProcess[str]:
    """Two processes under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script.split()]
    variables = {**os.environ, **ONE_THREAD, **env}
    return subprocess.run([*launcher, *arguments], capture_output=True, text=True, timeout=120, check=False, env=variables)


def same(one: Path, other: Path) -> bool:
    """All figures and all losses, bit for bit; times apart."""
    (results, record), (results2, record2) = facts(one), facts(other)
    results["command"] = results2["command"]
    equal = [np.array_equal(record[key], record2[key]) for key in record]
    return results == results2 and record.keys() == record2.keys() and all(equal)


def test_two_processes_give_what_one_gives(model: Path, text: Path, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone.json", tmp_path / "both.json"
    alibi(*command(model, text, alone), env=ONE_THREAD)
    result = launch(*command(model, text, both, "--json"))
    assert result.returncode == 0, result.stderr
    assert same(alone, both)
    assert json.loads(result.stdout) == json.loads(both.read_text())  # one of them prints, and it is one object
    assert {path.name for path in tmp_path.iterdir()} == {
        "alone.json", "alone.nll.safetensors", "both.json", "both.nll.safetensors"
    }  # fmt: skip
    ran["rows of two processes"] += len(json.loads(both.read_text())["rows"])
