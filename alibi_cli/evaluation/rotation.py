"""Rotary frequencies of a loaded model: stretched as transformers' `rope_parameters` would, and freed of what they remember."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.errors import first_line

SLIDING = "sliding_attention"  # transformers' name of layers with a window of their own


def forget_lengths(model: torch.nn.Module) -> None:
    """Undoes what a dynamic rotation remembers.

    transformers' dynamic NTK keeps the frequencies of the longest sequence seen so far (modeling_rope_utils.py), so that a loss would
    depend on what was scored before. The other rope types compute their frequencies from the sequence at hand or from the config alone.
    """
    for module in model.modules():
        for layers, kind in _rope_types(module).items():
            if "dynamic" in kind:
                prefix = f"{layers}_" if layers else ""
                setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def no_stretching(model: torch.nn.Module) -> str | None:
    """Why the frequencies of a model cannot be stretched; None if they can."""
    modules: list[Any] = [module for module in model.modules() if _stretched(module)]
    if not modules:
        return "it has no rotary positions that transformers can stretch"
    kinds = {_rope_types(module)[layers] for module in modules for layers in _stretched(module)}
    if others := kinds - {"default"}:
        return f"its rotation is stretched already (rope_type {min(others)})"
    try:  # Phi-3's config, for one, takes nothing but longrope
        config = _config(modules[0], "linear", 2.0, modules[0].original_max_seq_len)
        getattr(config, "validate_rope", lambda: None)()
    except (ValueError, KeyError) as error:
        return f"its config refuses these rope_parameters ({first_line(error)})"
    return None


@contextmanager
def stretched(model: PreTrainedModel, kind: str, factor: float, trained_length: int) -> Iterator[None]:
    """While it lasts, the model rotates as if it had been loaded with `rope_parameters` of this rope_type and factor.

    Where the config has parameters for each type of layer, those of layers with a window of their own stay: they see no farther.
    """
    replaced = []
    for parent in model.modules():
        for name, module in parent.named_children():
            if _stretched(module):
                replaced.append((parent, name, module))
                setattr(parent, name, _stretch(module, kind, factor, trained_length))
    try:
        yield
    finally:
        for parent, name, module in replaced:
            setattr(parent, name, module)


def _stretch(module: Any, kind: str, factor: float, trained_length: int) -> Any:
    made = type(module)(_config(module, kind, factor, trained_length)).to(next(module.buffers()).device)
    # A study that calls the model itself must not need to know that dynamic frequencies remember.
    made.register_forward_pre_hook(lambda module, args: forget_lengths(module))
    return made.eval()


def _config(module: Any, kind: str, factor: float, trained_length: int) -> Any:
    config = copy.deepcopy(module.config)
    config.max_position_embeddings = trained_length  # from which dynamic counts
    new = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        new["original_max_position_embeddings"] = trained_length
    for layers in _stretched(module):
        if layers:
            config.rope_parameters = {**config.rope_parameters, layers: {**config.rope_parameters[layers], **new}}
        else:
            config.rope_parameters = {**config.rope_parameters, **new}
    return config


def _stretched(module: torch.nn.Module) -> list[str]:
    """The types of layers whose frequencies a module holds, without those that have a window; [""] if all layers share them."""
    parameters = getattr(getattr(module, "config", None), "rope_parameters", None)
    if not isinstance(parameters, dict) or not hasattr(module, "original_max_seq_len"):
        return []  # code of a model's own, before transformers 5
    return [layers for layers in _rope_types(module) if layers != SLIDING]


def _rope_types(module: torch.nn.Module) -> dict[str, str]:
    """{type of layers, "" for all: rope_type} of a rotary module of transformers; nothing for any other module."""
    kind = getattr(module, "rope_type", None)
    return kind if isinstance(kind, dict) else {"": kind} if isinstance(kind, str) else {}
