"""From calibration to a file, and what is said where there is no engine."""

from pathlib import Path

import pytest

from alibi_cli.engines import llama_cpp as engine
from alibi_cli.exporting import export as run
from alibi_cli.exporting import verification
from alibi_cli.exporting.head_order import max_bias_of
from alibi_cli.models.source import read_json
from tests.cli.run import alibi_here
from tests.exporting.helpers import checkpoint


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_calibration_that_ends_on_the_grid_is_exported(family: str, tmp_path: Path, request, monkeypatch):
    monkeypatch.setattr(verification, "engine_version", lambda: None)
    source, folder = request.getfixturevalue(f"tiny_{family}"), tmp_path / "out"
    options = ("--slopes", "calibrated", "--calibrate", "look-back", "--calibration-tokens", "240")
    for grid in ((), ("--grid", "press")):
        result = alibi_here("convert", source, "-o", folder, "--force", *options, *grid)
        assert result.exit_code == 0
        slopes, record = (
            read_json(folder / "config.json")["alibi_slopes"],
            read_json(folder / "alibi.json")["calibration"],
        )
        assert (max_bias_of(slopes) is None) == (not grid)
        assert ("grid" in record["kl_nats_per_token"]) == bool(grid)
    assert read_json(folder / "alibi.json")["slopes_scheme"] == "calibrated, look-back, on Press's grid"
    assert "on Press's grid (max_bias" in result.stdout and record["sinks"] == 0
    assert (record["max_bias"] == 8.0) == (family == "llama")  # refact has it built in, mpt reads it
    report = run.export(folder, tmp_path / "model.gguf")
    assert report.max_bias == pytest.approx(record["max_bias"]) and report.heads_permuted
    assert report.verified is not None and report.verified.max_abs_logprob_difference < 1e-4


def test_a_family_without_an_architecture_has_no_grid(tmp_path: Path):
    checkpoint(tmp_path, "qwen3")
    options = ("--slopes", "calibrated", "--grid", "press", "--dry-run")
    result = alibi_here("convert", tmp_path / "qwen3", "-o", tmp_path / "out", *options)
    assert result.exit_code == 2 and "normalises queries and keys" in result.error.message


def test_without_the_engine_a_file_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (engine, verification):
        monkeypatch.setattr(module, "engine_version", lambda: None)
    run.export(checkpoint(tmp_path, "gpt2"), tmp_path / "model.gguf")
    result = alibi_here("eval", tmp_path / "model.gguf", "--lengths", "32")
    assert result.exit_code == 2 and "not installed" in result.error.message and "alibi-cli[gguf]" in result.error.hint
