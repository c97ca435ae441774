"""How long a training run is going to take, said before it begins."""

import re
from pathlib import Path
from typing import Any

import pytest

from alibi_cli.models import pace
from alibi_cli.models.cost import cost_of
from alibi_cli.models.language_model import describe
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.training.budget import make_budget
from alibi_cli.training.duration_of_run import operations_of
from alibi_cli.training.job import Job
from tests.training.helpers import heal, text_file, tiny_converted


def test_a_long_run_says_so_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, text, said = tiny_converted(tmp_path), text_file(tmp_path), []
    heal(source, tmp_path / "short", text, progress=said.append)
    assert not any(step.note for step in said)
    said.clear()
    monkeypatch.setattr(pace, "QUICK", 0)
    monkeypatch.setattr(pace, "speed", lambda *_: 1e4)
    heal(source, tmp_path / "long", text, progress=said.append)
    first = [step.note for step in said].index(True)
    assert re.fullmatch(r"This will take about .* h on cpu\.", said[first].what)
    assert said[first + 1].what.startswith("Fewer `steps` take less")
    assert not any(step.what.startswith("Training") for step in said[:first])


def test_a_step_costs_what_it_computes(tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    info = describe(str(source))

    def operations(teacher: bool = False, **settings: Any) -> float:
        chosen = TrainSettings(checkpoint="m", output=Path("o"), steps=10, length=32, batch_tokens=128, **settings)
        return operations_of(Job(chosen, info, info if teacher else None, make_budget(chosen, None), None, 0))

    forward = 40 * cost_of(info, "cpu", "float32").operations(32, 32)
    assert operations() == pytest.approx(3 * forward)
    assert operations(gradient_checkpointing=True) == operations(teacher=True) == pytest.approx(4 * forward)
