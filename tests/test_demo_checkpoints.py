"""The demonstration checkpoints are what the log beside them says."""

import json
import sys

import pytest

from alibi_cli.settings.presets import DEMONSTRATIONS, presets_folder
from alibi_cli.text.documents import load_text
from tests.evaluation.helpers import asked, evaluate
from tests.fuzzing import THOROUGH


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_size_log_and_held_out_bits_per_byte(name: str) -> None:
    folder = presets_folder() / name
    log = json.loads((folder / "training_log.json").read_text())
    assert (folder / "model.safetensors").stat().st_size <= 4_000_000
    assert log["seed"] and "scripts/train_demo.py" in log["command"] and len(log["loss_curve"]) > 50
    assert log["held_out_bits_per_byte_at_512"] <= 2.0

    part = None if THOROUGH else 60  # of 1,900 windows
    results, _ = evaluate(asked([name], (512,), load_text(), protocol="non-overlapping", max_segments=part))
    (row,) = results.rows
    assert row.bits_per_byte is not None and row.bits_per_byte <= (2.0 if THOROUGH else 2.3)
    same_python = sys.version_info[:2] == tuple(int(part) for part in log["versions"]["python"].split(".")[:2])
    if THOROUGH and same_python:  # the windows of the log run across documents
        assert row.bits_per_byte == pytest.approx(log["held_out_bits_per_byte_at_512"], abs=0.03)


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_architecture(name: str) -> None:
    config = json.loads((presets_folder() / name / "config.json").read_text())
    assert config["model_type"] == name.removeprefix("demo-")
    assert config.get("n_positions", config.get("max_position_embeddings")) == 512
    if name == "demo-llama":
        assert config["num_key_value_heads"] < config["num_attention_heads"]
