"""Ctrl-C and SIGTERM at many moments of the commands that take long."""

import json
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.fuzzing import cases, ran
from tests.python import python


def test_interrupted_at_many_moments_and_continued(tmp_path: Path) -> None:
    """One line, the right exit code, nothing half-written, and the continuation gives what an undisturbed run does."""
    n = cases(2, 60)
    result = python("-m", "tests.interrupt_commands", tmp_path, str(n), cwd=REPOSITORY, timeout=7200)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["failures"] == []
    for name, ended in found["ended"].items():
        ran[f"signals to alibi {name}"] += ended
    assert sum(found["ended"].values()) >= n and set(found["ended"]) == {"eval", "calibrate", "train"}
