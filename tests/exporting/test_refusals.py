"""What a GGUF file cannot hold is refused, with the reason and what to do instead, before anything is written."""

import os
from pathlib import Path
from typing import Any

import pytest

from alibi_cli.engines import llama_cpp
from alibi_cli.errors import UsageError
from alibi_cli.exporting import export as run
from alibi_cli.exporting import verification
from alibi_cli.settings.files_for_engines import ExportSettings
from alibi_cli.slopes import get_slopes
from tests.cli.run import alibi_here
from tests.exporting.helpers import SUITABLE, checkpoint, slopes_file

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, str]] = {
    "policy add": ("llama", {}, {"policy": "add"}, "keeps a rotation beside the bias", "vLLM does for most families"),
    "policy add, for llama.cpp": ("llama", {}, {"policy": "add"}, "keeps a rotation beside the bias", "--policy replace"),
    "sinks": ("llama", {}, {"sinks": 2}, "cannot hold attention sinks", "--sinks 0"),
    "biases that refact ignores": ("llama", {"attention_bias": True}, {}, "loads and never adds", "transformers"),
    "biases of the feed-forward": ("llama", {"mlp_bias": True}, {}, "loads and never adds", "transformers"),
    "window": ("mistral", {"sliding_window": 7}, {}, "sees the last 7 tokens only", "--max-sequence-length 7"),
    "window of some layers": ("gpt_neo", {}, {}, "sees the last 7 tokens only", "--max-sequence-length 7"),
    "max_bias": ("llama", {}, {"max_bias": 4.0}, "has 8 built in", "--max-bias 8"),
    "exact GELU": ("gpt2", {"activation_function": "gelu"}, {}, "has the exact GELU", "--approximate"),
    "other activation": ("llama", {"hidden_act": "gelu"}, {}, "computes silu", "transformers"),
    "norms per head": ("qwen3", {}, {}, "normalises queries and keys", "transformers"),
    "norms per head by setting": ("stablelm", {"qk_layernorm": True}, {}, "normalises queries and keys per head", "transformers"),
    "parallel residual": ("phi", {}, {}, "parallel residual", "transformers"),
    "parallel residual by setting": ("gpt_neox", {"use_parallel_residual": True}, {}, "parallel residual", "transformers"),
    "clipped": ("olmo", {"clip_qkv": 1.0}, {}, "clips queries", "transformers"),
    "experts": ("mixtral", {}, {}, "has experts", "transformers"),
    "encoder": ("bert", {}, {}, "no causal language model", "transformers"),
    "norm after the residual": ("opt", {"do_layer_norm_before": False}, {}, "normalises after the residual", "transformers"),
    "narrow heads": ("starcoder2", {"hidden_act": "gelu_pytorch_tanh", "hidden_size": 64, "num_attention_heads": 6, "head_dim": 8},
                     {}, "heads that fill the width", "transformers"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path):
    family, changes, options, reason, instead = CASES[case]
    folder = checkpoint(
        tmp_path,
        family,
        {**SUITABLE.get(family, {}), **changes} if case != "window of some layers" else changes,
        **options,
    )
    result = alibi_here("export", folder, "-o", tmp_path / "model.gguf")
    assert result.exit_code == 2
    assert reason in result.error.message and instead in result.error.hint
    assert not list(tmp_path.glob("model*"))


def test_calibrated_slopes(tmp_path: Path):
    slopes = [[0.3, 0.2, 0.1, 0.05, 0.02, 0.01]] * 2
    folder = checkpoint(tmp_path, "gpt2", slopes=slopes_file(tmp_path / "slopes.json", slopes))
    result = alibi_here("export", folder, "-o", tmp_path / "model.gguf")
    assert result.exit_code == 2 and "one number" in result.error.message and "--grid press" in result.error.hint


def test_heads_that_would_leave_their_group(tmp_path: Path):
    press = get_slopes(6)
    slopes = [[press[h] for h in (3, 1, 2, 0, 4, 5)]] * 2
    folder = checkpoint(tmp_path, "llama", slopes=slopes_file(tmp_path / "slopes.json", slopes))
    result = alibi_here("export", folder, "-o", tmp_path / "model.gguf")
    assert result.exit_code == 2 and "2 groups" in result.error.message and "--grid press" in result.error.hint


def test_offsets(tmp_path: Path):
    folder = checkpoint(tmp_path, "llama", policy="add", offset=4)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"alibi_policy": "add"', '"alibi_policy": "replace"'))
    result = alibi_here("export", folder, "-o", tmp_path / "model.gguf")
    assert result.exit_code == 2 and "offsets" in result.error.message


def test_what_is_no_converted_checkpoint(tiny_gpt2: Path, tmp_path: Path):
    result = alibi_here("export", tiny_gpt2, "-o", tmp_path / "model.gguf")
    assert result.exit_code == 2 and "no converted checkpoint" in result.error.message
    assert "alibi convert" in result.error.hint


@pytest.mark.parametrize(
    "name, reason", [("model.bin", "must end in .gguf"), ("nowhere/model.gguf", "lies in no folder")]
)
def test_names_of_the_file(name: str, reason: str, tmp_path: Path):
    result = alibi_here("export", tmp_path, "-o", tmp_path / name)
    assert result.exit_code == 2 and reason in result.error.message


def test_a_file_is_replaced_only_if_asked_and_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verification, "engine_version", lambda: None)
    monkeypatch.setattr(run, "engine_version", lambda: None)
    folder, file = checkpoint(tmp_path, "gpt2"), tmp_path / "model.gguf"
    file.write_text("mine")
    assert "exists" in alibi_here("export", folder, "-o", file).error.message
    original = run.write_file

    def full_disk(path: Path, *rest: Any) -> None:
        original(path, *rest)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_file", full_disk)
    result = alibi_here("export", folder, "-o", file, "--force")
    assert result.exit_code == 1 and "No space left on device" in result.error.message
    assert file.read_text() == "mine" and [path.name for path in tmp_path.glob("model*")] == ["model.gguf"]
    monkeypatch.setattr(run, "write_file", original)
    result = alibi_here("export", folder, "-o", file, "--force")
    assert result.exit_code == 0 and file.read_bytes()[:4] == b"GGUF"
    assert "not verified in llama.cpp" in result.stdout


def test_a_grid_is_for_slopes_that_replace_positions(tmp_path: Path):
    for options, reason in (
        (["--policy", "add", "--slopes", "calibrated"], "is for slopes that replace positions"),
        (["--slopes", "calibrated", "--sinks", "2"], "cannot hold --sinks"),
        ([], "needs --slopes calibrated"),
    ):
        result = alibi_here("convert", "demo-llama", "-o", tmp_path / "out", "--grid", "press", "--dry-run", *options)
        assert result.exit_code == 2 and reason in result.error.message


def test_a_path_in_the_home_directory_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "alibi_gpt2"}')
    ExportSettings(folder=tmp_path, output=Path("~/x.gguf")).check()
    with pytest.raises(UsageError, match="lies in no folder"):
        ExportSettings(folder=tmp_path, output=Path("~/absent/x.gguf")).check()


@pytest.mark.parametrize(("written", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None)])
def test_threads_are_those_of_openmp(written: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", written)
    assert llama_cpp._threads() == (threads or len(os.sched_getaffinity(0)))
