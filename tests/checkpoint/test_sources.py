"""What alibi convert refuses, and what it never runs."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alibi_cli import AlibiError
from tests.checkpoint.helpers import convert, snapshot
from tests.cli.run import alibi
from tests.models import FAMILIES, save_tiny


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    torch.save({"transformer.wte.weight": Canary(tmp_path / "fired")}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    result = alibi("convert", source, "-o", tmp_path / "out", code=1)
    assert (
        "pytorch_model.bin" in result.stderr and not (tmp_path / "fired").exists() and not (tmp_path / "out").exists()
    )


def test_code_beside_a_checkpoint_never_runs(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'fired')!r}).touch()\nclass C: pass\n"
    )
    config = json.loads((tiny_gpt2 / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
    (tiny_gpt2 / "config.json").write_text(json.dumps(config))
    alibi("convert", tiny_gpt2, "-o", tmp_path / "out")
    alibi("eval", tiny_gpt2, tmp_path / "out", "--lengths", "8,16", "--max-segments", "2")
    assert not (tmp_path / "fired").exists()
    assert "evil" not in (tmp_path / "out" / "config.json").read_text()


def test_unsupported_families_name_the_supported_and_the_closest(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox_japanese"}))
    result = alibi("convert", folder, "-o", tmp_path / "out", code=2)
    assert "gpt_neox" in result.stderr.split("closest is")[1] and result.stderr.count("\n") == 1
    assert all(family in result.stderr for family in FAMILIES)


def test_a_converted_checkpoint_is_not_converted_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    convert(tiny_gpt2, tmp_path / "out")
    assert "already converted" in alibi("convert", tmp_path / "out", "-o", tmp_path / "twice", code=2).stderr


def damage(folder: Path, how: str) -> None:  # noqa: PLR0912
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = json.loads(config.read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "long header":
        weights.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    elif how == "header is no JSON":
        weights.write_bytes((4).to_bytes(8, "little") + b"oops")
    elif how == "no weights":
        weights.unlink()
    elif how == "missing shard":
        weights.rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
        )
    elif how == "shard outside":
        weights.rename(folder.parent / "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    elif how == "wrong shapes":
        config.write_text(json.dumps({**content, "n_embd": 96}))
    elif how == "missing tensors":
        config.write_text(json.dumps({**content, "n_layer": 3}))
    elif how == "config is no JSON":
        config.write_text("{")
    elif how == "config is a list":
        config.write_text("[]")
    elif how == "config without type":
        config.write_text("{}")
    elif how == "no config":
        config.unlink()
    elif how == "heads do not divide":
        config.write_text(json.dumps({**content, "n_head": 7}))


DAMAGE = [
    "truncated",
    "long header",
    "header is no JSON",
    "no weights",
    "missing shard",
    "shard outside",
    "wrong shapes",
    "missing tensors",
    "config is no JSON",
    "config is a list",
    "config without type",
    "no config",
    "heads do not divide",
]


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_sources_are_found_before_anything_is_written(how: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    damage(tiny_gpt2, how)
    before = snapshot(tmp_path)
    with pytest.raises(AlibiError) as error:
        convert(tiny_gpt2, tmp_path / "out")
    assert error.value.exit_code in (1, 2) and len(error.value.message.splitlines()) == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "some file"])
def test_no_such_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "some file").touch()
    result = alibi("convert", name, cwd=tmp_path, code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") <= 2 and "Traceback" not in result.stderr


def test_a_single_file_goes_before_an_index_that_an_earlier_save_left(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    assert convert(tiny_gpt2, tmp_path / "out").verified.passed
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 0}, {"n_head": -4}, {"activation_function": "nonsense"}, {"architectures": [1]},
        {"model_type": "gpt-neox"}, {"n_embd": "x"}, {"_attn_implementation": "flash_attention_2"},
    ],
)  # fmt: skip
def test_odd_configs_are_one_clear_line_or_no_matter(changes: dict, tiny_gpt2: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_gpt2 / "config.json").read_text())
    (tiny_gpt2 / "config.json").write_text(json.dumps({**config, **changes}))
    try:
        assert convert(tiny_gpt2, tmp_path / "out").verified.passed
        assert "_attn_implementation" not in (tmp_path / "out" / "config.json").read_text()
    except AlibiError as error:
        assert len(error.message.splitlines()) == 1 and not (tmp_path / "out").exists()
        assert "_attn_implementation" not in changes


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognised(name: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors").unlink()
    (tiny_gpt2 / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(AlibiError, match="git-lfs pointer"):
        convert(tiny_gpt2, tmp_path / "out")


@pytest.mark.parametrize(("model_type", "reason"), [("deberta", "content"), ("deberta-v2", "content")])
def test_refused_families_say_why(model_type: str, reason: str, tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path / "source")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(AlibiError, match=reason) as error:
        convert(folder, tmp_path / "out")
    assert error.value.exit_code == 2


def test_falcon_with_its_own_kind_of_alibi_is_refused(tmp_path: Path) -> None:
    source = save_tiny("falcon", tmp_path / "source", alibi=True)
    with pytest.raises(AlibiError, match="ALiBi already"):
        convert(source, tmp_path / "out")
