"""Converted checkpoints to export: tiny models with random norms and biases, so that none can be left out unnoticed."""

import json
from pathlib import Path
from typing import Any

import torch

from alibi_cli.exporting.architectures import FAMILIES
from alibi_cli.settings.presets import presets_folder
from tests.checkpoint.helpers import convert
from tests.models import tiny_model

VOCABULARY = 260  # three rows of the embedding have no token
# What makes a family one that has an architecture, where its tiny model has something else.
SUITABLE: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "gpt_bigcode": {"activation_function": "gelu_pytorch_tanh"},
    "starcoder2": {"hidden_act": "gelu_pytorch_tanh"},
    "gpt_neo": {"attention_types": [[["global", "global"], 1]]},
    "gpt_neox": {"use_parallel_residual": False},
    "stablelm": {"use_qkv_bias": True},
}
# Beside one model of every family: what is folded into weights.
VARIANTS = {
    "gpt2-inverse-layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-unscaled": ("gpt2", {"scale_attn_weights": False}),
    "gpt_bigcode-many-keys": ("gpt_bigcode", {"activation_function": "gelu_pytorch_tanh", "multi_query": False}),
    "llama-yarn": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 6}},
    ),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2-no-window": ("qwen2", {"use_sliding_window": False, "sliding_window": 5}),
}  # fmt: skip
MODELS = {**{family: (family, SUITABLE.get(family, {})) for family in FAMILIES}, **VARIANTS}


def checkpoint(folder: Path, family: str, changes: dict[str, Any] | None = None, **options: Any) -> Path:
    """A converted tiny model, in a folder of its name; options as of `make_plan`."""
    source, output = folder / family, folder / f"{family}-alibi"
    model = tiny_model(family, torch.float32, **{"vocab_size": VOCABULARY, **(changes or {})})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(source)
    byte_tokenizer(source)
    convert(source, output, check=False, **options)
    return output


def byte_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((presets_folder() / "demo-gpt2" / name).read_text())


def slopes_file(path: Path, slopes: list[list[float]]) -> str:
    path.write_text(json.dumps(slopes))
    return str(path)
