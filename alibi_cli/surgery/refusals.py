"""What surgery refuses before it changes anything, and why."""

from importlib import import_module
from typing import Any

import torch

from alibi_cli.runtime.alibi_modules import NO_SINKS, rescale_own_bias
from alibi_cli.runtime.alibi_policies import policy_registry
from alibi_cli.runtime.alibi_positions import POSITION_TABLES, can_turn_back, drop_position_buffer
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.runtime.alibi_rewrite import NO_TURN, policies


def check_reach(model: Any, policy: str, sinks: int = 0, sink_distance: int | None = None) -> None:
    """Raises ValueError if the named policy has no function for any module of the model, or cannot do with it what is asked for."""
    name, reached = type(model).__name__, _functions(model, policy)
    replacing = _functions(model, DEFAULT_POLICY)
    embedded = any(
        isinstance(getattr(module, table, None), torch.nn.Module)
        for module in model.modules()
        for table in POSITION_TABLES
    )
    if policy == "add" and rescale_own_bias in replacing:
        raise ValueError(nothing_to_add(f"This {name}"))
    if policy == "add" and (embedded or drop_position_buffer in replacing):
        raise ValueError(no_rotation(f"this {name}", trained_length(model.config)))
    if not reached:
        raise ValueError(f"ALiBi surgery changed nothing: policy {policy!r} does not know the modules of {name}.")
    if sinks and rescale_own_bias in reached:
        raise ValueError(NO_SINKS)
    if sink_distance is not None and not can_turn_back(reached):
        raise ValueError(f"{name} with policy {policy!r} {NO_TURN}")


def _functions(model: Any, policy: str) -> set[Any]:
    """Those of a policy that reach a module of the model."""
    modules = list(model.modules())
    return {
        function for cls, function in policies(policy).items() if any(isinstance(module, cls) for module in modules)
    }


def no_rotation(where: str, length: int | None) -> str:
    """Why policy add refuses position embeddings, which are for `length` tokens."""
    return (
        f"Policy add needs a rotation, which has no end; the position embeddings of {where} end at {length} tokens. "
        "Use policy replace."
    )


def nothing_to_add(where: str) -> str:
    """Why policy add refuses a family that computes ALiBi."""
    return f"{where} has ALiBi already, so there is nothing to add; policy replace changes its slopes."


def trained_length(config: Any) -> int | None:
    """Tokens that the stock model's positions were made for; None if its config names no length.

    RoBERTa and its like count positions from the padding token on, so their position embeddings have rows that no token uses.
    """
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if length is None:
        return None
    package = f"{type(config).__module__.rpartition('.')[0]}."
    for key in policy_registry:
        if isinstance(key, str) and key.startswith(package):
            module, _, name = key.rpartition(".")
            if hasattr(getattr(import_module(module), name), "create_position_ids_from_input_ids"):
                return int(length) - config.pad_token_id - 1
    return int(length)
