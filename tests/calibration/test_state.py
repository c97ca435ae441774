"""Calibrations that are interrupted: what continues them, what does not, and what is left."""

import json
import random
from pathlib import Path

import pytest
import torch

from alibi_cli.calibration import state as module
from alibi_cli.calibration.calibrate import state_key
from alibi_cli.calibration.of_source import calibrate_source
from alibi_cli.calibration.state import State
from alibi_cli.models.source import open_source
from alibi_cli.settings.conversion import CalibrateSettings
from alibi_cli.text.documents import Text
from tests.calibration.kill_calibrations import TEXT
from tests.conftest import REPOSITORY
from tests.models import save_tiny
from tests.python import python

SETTINGS = CalibrateSettings(policy="add", calibration_tokens=200)


def test_a_killed_calibration_continued_finds_the_same(tiny_llama, tmp_path):
    killer = "tests.calibration.kill_calibrations"
    result = python("-m", killer, tiny_llama, tmp_path / "out.calibration", cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found) == 4
    for case, run in found.items():
        assert run["killed"] and run["continued"] and run["same"], (case, run)
    for case in ("distil", "distil, replaced"):
        left, whole = found[case]["steps"]
        assert 0 < left < whole, (case, left, whole)


def test_the_last_layer_of_reach_is_not_fitted_twice(tiny_llama, tmp_path, monkeypatch):
    source, folder = open_source(str(tiny_llama)), tmp_path / "kept"
    first = calibrate_source(source, TEXT, SETTINGS, folder=folder)
    monkeypatch.setattr("alibi_cli.calibration.added.fit_reach", None)
    assert calibrate_source(source, TEXT, SETTINGS, folder=folder).slopes == first.slopes


class Stop(Exception):
    pass


def interrupted(source: Path, folder: Path, settings: CalibrateSettings, text: Text = TEXT) -> list[str]:
    """Starts, and stops after the first layer; what was said."""
    said: list[str] = []

    def update(what: str, done: float, of: float) -> None:
        if what.startswith("Fitting") and done == 1:
            raise Stop

    with pytest.raises(Stop):
        calibrate_source(open_source(str(source)), text, settings, update, said.append, folder)
    return said


def test_another_setting_text_or_model_does_not_continue_it(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0)
    folder = tmp_path / "out.calibration"
    assert len(interrupted(tiny_llama, folder, SETTINGS)) == 1
    assert interrupted(tiny_llama, folder, SETTINGS)[1] == f"Continuing {folder}."
    other_text = Text("text", [*TEXT.documents, ("more", "x")])
    other_model = save_tiny("llama", tmp_path / "other", rms_norm_eps=1e-5)
    others = [
        (tiny_llama, CalibrateSettings(policy="add", calibration_tokens=201), TEXT),
        (tiny_llama, CalibrateSettings(policy="add", calibration_tokens=200, offset=3), TEXT),
        (tiny_llama, CalibrateSettings(policy="add", calibration_tokens=200, sinks=1), TEXT),
        (tiny_llama, SETTINGS, other_text),
        (other_model, SETTINGS, TEXT),
    ]
    for source, settings, text in others:
        assert "of another calibration" in interrupted(source, folder, settings, text)[1]
    assert "of another calibration" in interrupted(tiny_llama, folder, SETTINGS)[1]  # the last one has overwritten it


@pytest.mark.parametrize("version", ["__version__", "torch.__version__", "transformers.__version__"])
def test_states_belong_to_versions(version, monkeypatch):
    key = state_key(SETTINGS, "digest", TEXT)
    monkeypatch.setattr(f"alibi_cli.calibration.calibrate.{version}", "9")
    assert state_key(SETTINGS, "digest", TEXT) != key


def test_what_cannot_be_read_is_as_good_as_nothing(tmp_path):
    state = State(tmp_path / "kept", "key")
    value = {"step": 3, "best": [torch.ones(2)], "kl": [(4, 0.5)]}
    state.save("distil", value)
    assert torch.equal(state.load("distil")["best"][0], value["best"][0]) and state.load("distil")["kl"] == [(4, 0.5)]
    assert State(tmp_path / "kept", "other").load("distil") is None and state.load("reach") is None
    path = tmp_path / "kept" / "distil.pt"
    whole, generator = path.read_bytes(), random.Random(0)
    contents = [b"", b"nonsense", b"\x80\x02", whole[:100], whole[:-30], *(whole[:n] for n in range(0, len(whole), 97))]
    contents += [generator.randbytes(generator.randrange(1, 300)) for _ in range(200)]
    contents += [bytes([first]) + generator.randbytes(20) for first in range(256)]
    for content in contents:
        path.write_bytes(content)
        assert state.load("distil") is None
    torch.save([1, 2], path)
    assert state.load("distil") is None
    path.unlink()
    path.mkdir()
    assert state.load("distil") is None


def test_clearing_takes_only_what_was_written(tmp_path):
    state = State(tmp_path / "kept")
    state.save("reach", [1.0])
    (tmp_path / "kept" / "distil.pt.tmp").touch()  # of a run that was killed while it wrote
    state.clear()
    assert not (tmp_path / "kept").exists()
    state.save("reach", [1.0])
    (tmp_path / "kept" / "notes.txt").write_text("precious")
    state.clear()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    State(None).save("reach", 1)
    assert State(None).load("reach") is None
    State(None).clear()
