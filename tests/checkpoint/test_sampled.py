"""Large checkpoints: verified from the disk, by all bytes and some layers. The bound is lowered here, so that small ones are large."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from alibi_cli import AlibiError
from alibi_cli.conversion import reload_check
from alibi_cli.conversion.sampled import load_layers
from alibi_cli.conversion.verify import verify
from alibi_cli.conversion.writer import write
from tests.checkpoint.helpers import at_stage, convert, plan_of
from tests.models import save_tiny

SAMPLED, OTHER = "model.layers.2.mlp.up_proj.weight", "model.layers.4.mlp.up_proj.weight"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reload_check, "WHOLE_BYTES", 0)
    return save_tiny("llama", tmp_path / "source", num_hidden_layers=6)


def converted(source: Path, output: Path, meanwhile: Callable[[Path], object] = lambda folder: None):
    """meanwhile: what happens to DIR.partial between writing and verifying."""
    partial = output.with_name(output.name + ".partial")
    return write(plan_of(source, output), progress=at_stage("Verifying", lambda: meanwhile(partial)))


def change(name: str) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[name][0, 0] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return do


def change_slopes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["alibi_slopes"][0] *= 1.01
    (folder / "config.json").write_text(json.dumps(config))


def change_code(folder: Path) -> None:
    """A checkpoint whose heads take each other's slopes: nothing but running it can tell."""
    code, line = (folder / "alibi_modules.py").read_text(), "    return [float(value) for value in values]"
    assert line in code
    (folder / "alibi_modules.py").write_text(code.replace(line, f"{line}[::-1]"))


def test_shards_keep_the_names_that_their_index_gives_them(large: Path, tmp_path: Path) -> None:
    name = "pytorch_model-00001-of-00001.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(large / "model.safetensors"), name)}
    (large / "model.safetensors").rename(large / name)
    (large / "model.safetensors.index.json").write_text(json.dumps(index))
    assert converted(large, tmp_path / "out").verified.passed
    assert (tmp_path / "out" / name).is_file() and verify(tmp_path / "out").passed


def test_the_record_says_which_layers_took_part(large: Path, tmp_path: Path, monkeypatch) -> None:
    assert converted(large, tmp_path / "out").verified.layers == [0, 2, 5]
    assert json.loads((tmp_path / "out" / "alibi.json").read_text())["verified"]["layers"] == [0, 2, 5]
    monkeypatch.undo()
    assert converted(large, tmp_path / "whole").verified.layers is None


@pytest.mark.parametrize("name", ["h.2.mlp.c_fc.weight", "h.4.mlp.c_fc.weight", "wte.weight"])
def test_any_changed_tensor_of_a_rewritten_file_is_named(name: str, large: Path, tmp_path: Path) -> None:
    source, name = save_tiny("gpt2", tmp_path / "gpt2", num_hidden_layers=6), f"transformer.{name}"
    with pytest.raises(AlibiError, match=f"Verification failed: '{name}' in model.safetensors is not what"):
        converted(source, tmp_path / "out", change(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2", "source"]


def test_layers_show_what_bytes_do_not(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AlibiError, match="does not hold the slopes"):
        converted(large, tmp_path / "out", change_slopes)
    with pytest.raises(AlibiError, match="reloaded logits differ by"):
        converted(large, tmp_path / "out", change_code)
    with pytest.raises(AlibiError, match="reloaded logits differ by"):
        converted(large, tmp_path / "out", change(SAMPLED))
    converted(large, tmp_path / "out", change(OTHER))  # the control: it is in none of them
    assert [f.file for f in verify(tmp_path / "out").findings if f.status != "ok"] == ["model.safetensors"]


def test_layers_that_take_no_part_are_not_looked_at(large: Path) -> None:
    model = load_layers(LlamaForCausalLM, large)
    opened = [hasattr(layer.mlp.up_proj, "_hf_hook") for layer in model.model.layers]  # which brings the weights
    assert opened == [True, False, True, False, False, True] and type(model) is LlamaForCausalLM
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"} and len(model.state_dict()) == 57


@pytest.mark.parametrize("family", ["gpt2", "t5", "bert", "bloom", "gpt_neo", "gemma2", "albert"])
def test_families_that_are_built_otherwise(family: str, large: Path, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / family)
    verified = convert(source, tmp_path / "out").verified
    assert verified.passed and verified.layers is not None


def test_experts_are_loaded_whole(large: Path, tmp_path: Path) -> None:
    """Loading puts their tensors together, which cannot be done one module at a time."""
    assert convert(save_tiny("mixtral", tmp_path / "mixtral"), tmp_path / "out").verified.layers is None
