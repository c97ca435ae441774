"""StreamingLLM's positions (Xiao et al. 2023, arXiv 2309.17453): the first tokens are seen as if they stood right before the window.

There, positions are counted in a cache that holds the first tokens and the window. Here keys keep the rotation of their place in the text,
and a query that is too far from the first tokens is turned back when it meets them, and them alone: a score depends on the distance alone.

Shapes: B batch, H query heads, Q queries, K keys, S sinks, D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from alibi_cli.runtime.alibi_positions import keep_interleaved_rotation, keep_rotation, rotates
from alibi_cli.runtime.alibi_rewrite import policies
from alibi_cli.runtime.alibi_sinks import frequencies_of, turn_back, turn_query
from alibi_cli.shapes import Keys, Places, Queries

KINDS = {keep_rotation: False, keep_interleaved_rotation: True}  # whether neighbouring dimensions are a pair


def no_turning(model: PreTrainedModel) -> str | None:
    """Why the queries of a model cannot be turned back; None if they can."""
    rotations, attention = _parts(model)
    if rotations and len(attention) == model.config.get_text_config().num_hidden_layers:
        return None
    return "it has no rotary positions that this package knows how to turn"


def _parts(model: PreTrainedModel) -> tuple[dict[torch.nn.Module, bool], list[Any]]:
    """({rotary embedding: whether it rotates neighbouring dimensions}, attention modules), as the policy that keeps a rotation has them."""
    known = {kind: unwrap(function) for kind, function in policies("add").items()}
    reached = [module for module in model.modules() if type(module) in known]
    rotations = {module: KINDS[known[type(module)]] for module in reached if known[type(module)] in KINDS}
    return rotations, [module for module in reached if module not in rotations]


@contextmanager
def turning(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, every attention that rotates its queries and keys has `alibi_rotation`, for `meet_sinks`."""
    rotations, attention = _parts(model)
    linked = [module for module in attention if rotates(module)]
    for module in linked:
        own = next((part for part in module.modules() if part in rotations), next(iter(rotations)))
        module.alibi_rotation = own, rotations[own]
    try:
        yield
    finally:
        for module in linked:
            del module.alibi_rotation


def meet_sinks(
    module: Any,
    query: Queries,
    key: Keys,
    value: Keys,
    places: Places,
    sinks: int,
    farthest: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(query, key, value) whose scores are those of queries at most `farthest` positions after the first token where they meet the first
    `sinks` keys, and their own where they meet others. Twice as wide: one half of a query meets the sinks, the other half the rest. The
    second half of what comes out is nothing.

    places: (Q,) positions of the queries.
    """
    turn = turn_back(frequencies_of(module), places, farthest, query.dtype)
    width = key.shape[-1]
    query = torch.cat([query, turn_query(module, query, turn)], dim=-1)
    key = torch.cat([pad(key[:, :, :sinks], (width, 0)), pad(key[:, :, sinks:], (0, width))], dim=2)
    return query, key, pad(value, (0, 2 * width - value.shape[-1]))  # equal widths: fused kernels on CPUs want them
