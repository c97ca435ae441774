"""Mistakes that the type checker has to notice: `make lint` fails on an ignore comment that ignores nothing. Never imported."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from alibi_cli.runtime.alibi_attention import alibi_attention, alibi_bias
from alibi_cli.runtime.alibi_distances import Compact
from alibi_cli.runtime.alibi_slopes import get_slopes


def a_method_that_tensors_do_not_have(x: torch.Tensor) -> object:
    return x.no_such_method() + 3  # type: ignore[attr-defined]


def a_string_for_a_tensor() -> torch.Tensor:
    return "not a tensor"  # type: ignore[return-value]


def a_method_that_models_do_not_have(model: PreTrainedModel) -> object:
    return model.config.to_json_string("yes")  # type: ignore[arg-type]


def of_the_runtime(x: torch.Tensor, path: Path) -> object:
    alibi_bias(x, [0.5], "float32")  # type: ignore[arg-type]
    alibi_attention(None, x, x, path, x)  # type: ignore[arg-type]
    Compact.of(3, 3, True, "cpu").spans + 1  # type: ignore[operator]
    return get_slopes(8).shape  # type: ignore[attr-defined]
