"""Quantised weights, adapters and code of a source's own: refused with the way to what can be converted, or named and left behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import alibi_cli
from alibi_cli import UsageError
from tests.cli.run import alibi_inside


def edit_config(folder: Path, **changes: Any) -> None:
    edit_json(folder / "config.json", **changes)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


QUANTISED: dict[str, tuple[dict[str, Any], str]] = {  # {method: (quantization_config, how to dequantise it)}
    "bitsandbytes": ({"load_in_4bit": True}, ".dequantize()"),
    "fp8": ({}, "FineGrainedFP8Config(dequantize=True)"),
    "mxfp4": ({}, "Mxfp4Config(dequantize=True)"),
    "compressed-tensors": ({}, "CompressedTensorsConfig(dequantize=True)"),
    "gptq": ({"bits": 4}, "does not dequantise"),
    "awq": ({"bits": 4}, "does not dequantise"),
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights_are_refused_before_anything_is_written(method: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    given, way = QUANTISED[method]
    edit_config(tiny_gpt2, quantization_config={"quant_method": method, **given})
    for verb in (alibi_cli.plan, alibi_cli.convert):
        with pytest.raises(UsageError, match=rf"quantised \({method}\)") as error:
            verb(tiny_gpt2, tmp_path / "out")
        assert way in error.value.hint and "the original" in error.value.hint
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", {"quantization_config": "?"}, "quantised"),
        ("config.json", {"dtype": "float8_e4m3fn"}, r"quantised \(float8_e4m3fn\)"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, r"\(modelopt, by hf_quant_config.json\)"),
        ("quantize_config.json", {"bits": 4, "group_size": 128}, r"\(gptq, by quantize_config.json\)"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128}, r"\(awq, by quant_config.json\)"),
    ],
)
def test_quantised_weights_by_other_signs(file: str, content: dict, says: str, tiny_gpt2: Path) -> None:
    path = tiny_gpt2 / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **content}))
    with pytest.raises(UsageError, match=says):
        alibi_cli.plan(tiny_gpt2)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "uint8", "int32"])
def test_tensors_of_quantised_weights_are_refused_whatever_the_config_says(
    dtype: str, pickled: bool, tiny_llama: Path
) -> None:
    tensors = load_file(tiny_llama / "model.safetensors")
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    save_weights(tiny_llama, {**tensors, "extra": torch.ones(2, dtype=torch.int64)}, pickled)
    alibi_cli.plan(tiny_llama)  # the control: it is no weight of the model
    save_weights(tiny_llama, {**tensors, name: tensors[name].to(getattr(torch, dtype))}, pickled)
    with pytest.raises(UsageError, match="quantised weights are not converted"):
        alibi_cli.plan(tiny_llama)


def save_weights(folder: Path, tensors: dict[str, torch.Tensor], pickled: bool) -> None:
    if pickled:
        (folder / "model.safetensors").unlink(missing_ok=True)
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("whole", [True, False])
def test_adapters_are_refused_with_the_way_to_merge_them(whole: bool, tiny_gpt2: Path) -> None:
    """peft saves an adapter without a config.json; transformers would load the base model in its place."""
    (tiny_gpt2 / "adapter_config.json").write_text("{}")
    if not whole:
        (tiny_gpt2 / "config.json").unlink()
    for command in (
        ["convert"],
        ["eval"],
        ["task", "listops"],
        ["inspect", "heads"],
        ["train", "-o", tiny_gpt2.parent / "out", "--steps", "1"],
    ):
        result = " ".join(alibi_inside(*command, tiny_gpt2, code=2).stderr.split())
        assert "holds an adapter of peft" in result and "merge_and_unload" in result


def test_code_of_the_source_is_named_and_stays_behind(tiny_gpt2: Path, tmp_path: Path) -> None:
    edit_config(tiny_gpt2, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (tiny_gpt2 / "modeling_mine.py").write_text("raise SystemExit('it ran')")
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out")
    assert "brings Python code of its own, which was neither run nor copied" in " ".join(result.stderr.split())
    assert not (tmp_path / "out" / "modeling_mine.py").exists()
    assert alibi_cli.plan(tiny_gpt2).side_files.left_behind == ["modeling_mine.py"]


@pytest.mark.parametrize("stock", [True, False])
def test_a_tokenizer_that_names_code_is_read_without_it(stock: bool, tiny_gpt2: Path, tmp_path: Path) -> None:
    """The key would be left without its code, or with code of another repository, and the result asks its users to trust it."""
    text, fired = "a page, 1,234 lines", tmp_path / "fired"
    expected = AutoTokenizer.from_pretrained(tiny_gpt2)(text)["input_ids"]
    auto_map, named = {"AutoTokenizer": ["tok_x.X", None]}, {} if stock else {"tokenizer_class": "X"}
    edit_json(tiny_gpt2 / "tokenizer_config.json", auto_map=auto_map, **named)
    processor = {"processor_class": "P", "image_processor": {"auto_map": {"AutoImageProcessor": "me/other--tok_x.X"}}}
    (tiny_gpt2 / "processor_config.json").write_text(
        json.dumps({**processor, "auto_map": {"AutoProcessor": "tok_x.X"}})
    )
    (tiny_gpt2 / "tok_x.py").write_text(f"import pathlib; pathlib.Path({str(fired)!r}).touch()")
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out")
    assert "brings Python code of its own, which was neither run nor copied" in " ".join(result.stderr.split())
    assert AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)(text)["input_ids"] == expected
    assert "tok_x" not in "".join(
        path.read_text() for path in (tmp_path / "out").glob("*.json") if "alibi" not in path.name
    )
    assert json.loads((tmp_path / "out" / "processor_config.json").read_text())["image_processor"] == {}
    assert not fired.exists() and alibi_cli.verify(tmp_path / "out").passed


def test_a_tokenizer_that_only_its_code_can_read_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "tokenizer.json").rename(tiny_gpt2 / "vocab.json")
    edit_json(tiny_gpt2 / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok_x.X", None]}, tokenizer_class="X")
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out", code=2)
    assert "is Python code of its own, which is not run" in " ".join(result.stderr.split())
    (tiny_gpt2 / "tokenizer_config.json").unlink()
    alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out")


def test_code_that_generates_is_named_and_stays_behind(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "custom_generate").mkdir()
    (tiny_gpt2 / "custom_generate" / "generate.py").write_text("raise SystemExit('it ran')")
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out")
    assert "brings Python code of its own" in " ".join(result.stderr.split())
    assert not list((tmp_path / "out").rglob("generate.py"))
