"""The original and the converted model side by side in the memory of one."""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.slopes import Slopes
from alibi_cli.surgery.apply import apply_alibi


def converted_twin(
    model: PreTrainedModel, slopes: Slopes, max_sequence_length: int, **settings: Any
) -> PreTrainedModel:
    """The model after surgery, beside the model itself: two trees of modules over one set of weights, so neither may be trained in place.
    settings: of `apply_alibi`.

    Raises:
        ValueError: as `apply_alibi`.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    twin = copy.deepcopy(model, shared)
    apply_alibi(twin, max_sequence_length, slopes=slopes, **settings)
    return twin.eval().requires_grad_(False)


def attention_modules(converted: PreTrainedModel) -> dict[str, Any]:
    """{name: module} of the attention that takes a bias, layer by layer; the original's have the same names."""
    return {
        name: module for name, module in converted.named_modules() if getattr(module, "alibi_slopes", None) is not None
    }


def layer_lists(slopes: list[list[float]], model: PreTrainedModel) -> Slopes:
    """One list per layer; the one list itself where all layers share one attention (ALBERT)."""
    return slopes[0] if len(slopes) == 1 and model.config.num_hidden_layers > 1 else slopes


def own_copies(model: PreTrainedModel, names: list[str]) -> dict[str, torch.nn.Parameter]:
    """Gives `model` parameters of its own in place of shared ones, ready to be trained; {name: parameter}."""
    copies = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parameter = torch.nn.Parameter(model.get_parameter(name).detach().clone())
        setattr(model.get_submodule(owner), leaf, parameter)
        copies[name] = parameter
    return copies


def norm_weights(model: PreTrainedModel) -> list[str]:
    """Names of the weights (and biases) of normalisation layers: LayerNorm, RMSNorm and every family's own."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    ]


def position_vectors(model: PreTrainedModel) -> list[str]:
    """Names of the vectors that stand where position embeddings were."""
    from alibi_cli.runtime.alibi_positions import NoPosition

    return [
        f"{name}.vector"
        for name, module in model.named_modules()
        if isinstance(module, NoPosition) and module.vector is not None
    ]
