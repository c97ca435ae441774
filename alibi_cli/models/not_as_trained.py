"""Folders that hold something else than the weights of a model as it was trained, and the way to those."""

from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError
from alibi_cli.files.strict_json import read_json

# Files beside config.json in which quantisers say what they did, where config.json does not say it.
BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
LOADED = "AutoModelForCausalLM.from_pretrained(…{option}){then}.save_pretrained(…)"
BY_METHOD = {
    "bitsandbytes": LOADED.format(option="", then=".dequantize()"),
    **{
        method: LOADED.format(option=f", quantization_config={config}(dequantize=True)", then="")
        for method, config in (
            ("fp8", "FineGrainedFP8Config"),
            ("mxfp4", "Mxfp4Config"),
            ("compressed-tensors", "CompressedTensorsConfig"),
        )
    },
}


def check_no_adapter(folder: Path, name: str) -> None:
    """
    Raises:
        UsageError: the folder holds an adapter of peft, which is a difference to weights that lie elsewhere.
    """
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{name} holds an adapter of peft.",
            "Merge it first: AutoPeftModelForCausalLM.from_pretrained(…).merge_and_unload().save_pretrained(…).",
        )


def check_not_quantised(folder: Path, name: str, config: dict[str, Any]) -> None:
    """
    Raises:
        UsageError: the weights are quantised, as config.json or a file beside it says.
    """
    quantised, by = config.get("quantization_config"), ""
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    if quantised is None and "float8" not in stored:
        file = next((each for each in BESIDE if (folder / each).is_file()), None)
        if file is None:
            return
        quantised, by = {"quant_method": BESIDE[file], **read_json(folder / file)}, f", by {file}"
    method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else stored
    raise UsageError(f"The weights of {name} are quantised ({method}{by}).", way_back(str(method)))


def way_back(method: str) -> str:
    """What to do about weights that a method has quantised."""
    if method in ("gptq", "awq"):
        return "Take the original: transformers does not dequantise them."
    command = f": {BY_METHOD[method]}" if method in BY_METHOD else ""
    return f"Dequantise them first{command}, or take the original."
