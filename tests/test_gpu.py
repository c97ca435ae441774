"""`make gpu` where there is no GPU: a list, whose files exist; and the tests that it runs take a device."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_the_steps_are_listed() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/gpu.py"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and result.stdout.startswith("No GPU here. `make gpu` would run:\n")
    commands = [line.split() for line in result.stdout.splitlines() if line.startswith("    python ")]
    tests = [word for words in commands for word in words if word.startswith("tests/")]
    assert len(commands) == 9 and len(tests) == 7 and all((REPOSITORY / path).exists() for path in tests)
    assert all("--device cuda" in " ".join(words) for words in commands if "pytest" in words)
    unknown = subprocess.run(
        [sys.executable, "scripts/gpu.py", "x"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert unknown.returncode == 1 and "There is no step x" in unknown.stderr


def test_tests_make_their_tensors_on_the_device_that_is_asked_for(tmp_path: Path) -> None:
    """On torch's meta device, which every machine has."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import torch\nfrom tests.conftest import use_device\nuse_device('meta')\n"
        "from tests.models import COMMON\n"
        "assert torch.zeros(2).device.type == torch.arange(3).device.type == 'meta'\n"
        "assert COMMON and torch.Generator.keywords == {'device': 'meta'}\n"
    )
    result = subprocess.run([sys.executable, probe], cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert result.returncode == 0
