"""ALiBi attention (Press et al. 2021, arXiv 2108.12409) as a transformers attention implementation.

Two functions are registered under one name. The *mask* function knows where every query and key stands (alibi_distances.py). The
*attention* function turns the distances into each head's bias with the slopes of the module that calls it. A module without slopes
(cross-attention) uses them as a mask only.

A bias that follows from the distance alone is not made: alibi_blocks.py takes a view of its line for a block of queries at a time. A single
query has a row of a line that its layer keeps (alibi_decoding.py). Every other bias is a tensor, which layers with equal slopes share.

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from .alibi_blocks import attend_in_blocks
from .alibi_decoding import bias_and_far, is_row
from .alibi_distances import HIDDEN, SINK, Compact, alibi_distances, once, sloped
from .alibi_scores import attend
from .alibi_sinks import (
    far_sinks,
    frequencies_of,
    matrix_of,
    sees_sinks_as_near,
    turn_back,
    turn_query,
    what_far_sinks_add,
)

# Attention names are global to the process: the version keeps two generations of these files from overwriting each other.
ATTENTION_NAME = "alibi_v2"

NO_DISTANCES = (
    "ALiBi attention takes distances from the mask that the model builds itself; a ready-made 4-D attention mask carries none. "
    "Pass a 2-D attention mask (1 = token, 0 = padding) instead."
)


def alibi_bias(distances: Tensor, slopes: Any, dtype: torch.dtype, offsets: Any = None) -> Tensor:
    """(B, 1, Q, K) from alibi_distances -> (B, H, Q, K) additive bias, the lowest finite value where hidden.

    -m_h * |i - j|; with offsets o_h, -m_h * max(0, |i - j| - o_h); 0 for a sink. Computed in float32 (float64 for a float64 model) and
    rounded once: near keys, which carry the weight, stay exact in bfloat16. Slopes and offsets that are tensors keep their gradient.
    """
    lowest = torch.finfo(dtype).min
    if slopes is None:
        return torch.zeros_like(distances, dtype=dtype).masked_fill_(distances == HIDDEN, lowest)
    exact = torch.promote_types(dtype, torch.float32)
    ramp = (distances + 1).to(exact).masked_fill_(distances < SINK, 0)  # (B, 1, Q, K)
    bias = sloped(ramp, slopes, offsets)
    return bias.masked_fill_(distances == HIDDEN, lowest).clamp_min_(lowest).to(dtype)


def alibi_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """softmax(scaling * q.k - m_h * |i - j|) v for query (B, H, Q, D) and key, value (B, G, K, D) -> (B, Q, H, D).

    The bias is added after the scaling and the soft cap and never multiplied by either. `s_aux` are learned sinks: one
    more score per head, which takes part in the softmax and has no value. A relative bias of the family's own (1, H, Q, K) is added where
    the module has a true `alibi_keeps_relative_bias`. The weights (B, H, Q, K) are the second result if the module has a true
    `alibi_keeps_weights`, else None.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        raise ValueError(NO_DISTANCES)
    keeps_weights = getattr(module, "alibi_keeps_weights", False)
    relative = kwargs.get("position_bias") if getattr(module, "alibi_keeps_relative_bias", False) else None
    watch = getattr(module, "alibi_watch", None)  # a hook of calibration, which chooses slopes by queries and keys
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    batch, heads, queries, groups = *query.shape[:3], key.shape[1]
    as_rows = queries == 1 and groups != heads and relative is None and watch is None
    if as_rows:  # decoding: the heads of a group are rows of one product, and what is cached is not copied
        query = query.reshape(batch, groups, heads // groups, query.shape[-1])
    elif groups != heads:  # every query head keeps its own slope
        key, value = (each.repeat_interleave(heads // groups, dim=1) for each in (key, value))  # (B, H, K, D)
    if watch is not None:
        watch(module, query, key, attention_mask, scaling, softcap, s_aux, kwargs.get("sliding_window"))
    options = (scaling, dropout, softcap, s_aux, module.training)
    same_keys = attention_mask.shape[-1] == key.shape[2]
    in_blocks = same_keys and relative is None and not keeps_weights and not as_rows
    if in_blocks and isinstance(attention_mask, Compact):
        line = _bias_of_layer(module, attention_mask.line, attention_mask.line, query.dtype)
        return attend_in_blocks(module, query, key, value, line, attention_mask, options).contiguous(), None
    entries = attention_mask if same_keys else attention_mask[..., : key.shape[2]]
    if is_row(entries) and isinstance(getattr(module, "alibi_slopes", None), list):  # neither learned nor missing
        bias, far = bias_and_far(module, entries, query, key, scaling, softcap)
    else:
        bias = _bias_of_layer(module, entries, attention_mask, query.dtype, groups if as_rows else None)
        far = _far_sinks(module, query, key, entries, attention_mask, scaling)
    if relative is not None:
        bias = (bias + relative).clamp_min(torch.finfo(query.dtype).min)
    explicit = keeps_weights or (bias.dtype != query.dtype)  # learned in 16 bits
    output, weights = attend(query, key, value, bias, *options, explicit, far=far)
    if as_rows:
        output = output.transpose(1, 2).reshape(batch, 1, heads, value.shape[-1])
        weights = None if weights is None else weights.reshape(batch, heads, 1, key.shape[2])
    return output.contiguous(), weights if keeps_weights else None


def _far_sinks(
    module: Any, query: Tensor, key: Tensor, entries: Tensor, mask: Tensor, scaling: float
) -> tuple[Any, Tensor] | None:
    """What is to be added to the scores of some columns, (columns, (B, H, Q, n)), None if nothing; entries: of the mask that all layers
    receive."""
    if not sees_sinks_as_near(module) or entries.shape[-1] - 1 <= module.config.alibi_sink_distance:
        return None
    limit, frequencies, one_query = module.config.alibi_sink_distance, frequencies_of(module), entries.shape[-2] == 1

    def find() -> Any:
        """`far_sinks` and the turn of the queries, which is a matrix if there is one query, whose heads all turn alike"""
        found = far_sinks((entries < SINK) & (entries != HIDDEN), SINK - 1 - entries, limit)
        if found is None:
            return None
        turn = turn_back(frequencies, found[1], limit, query.dtype)
        return found, matrix_of(module, query.shape[-1], turn) * scaling if one_query else turn

    far = once(mask, "far sinks", (limit, frequencies, entries.shape, query.dtype, scaling), find)
    if far is None:
        return None
    found, turn = far
    if one_query:
        change = (query.flatten(1, 2).to(turn.dtype) @ turn).view(query.shape)
    else:
        change = (turn_query(module, query, turn) - query) * scaling
    return what_far_sinks_add(change, key, found)


def _bias_of_layer(
    module: Any, distances: Tensor, mask: Tensor, dtype: torch.dtype, groups: int | None = None
) -> Tensor:
    """(B, H, Q, K), or (B, groups, H / groups, K) for one query. Layers with equal slopes share one bias for the length of a forward pass;
    distances: of the mask that all layers receive."""
    slopes, offsets = getattr(module, "alibi_slopes", None), getattr(module, "alibi_offsets", None)
    learned = isinstance(slopes, torch.Tensor)  # the gradient is a sum over distances, for which 16 bits are too few
    kind = torch.promote_types(dtype, torch.float32) if learned else dtype

    def make() -> Tensor:
        if not torch.compiler.is_compiling() and distances.numel() and distances.max() >= 0:
            raise ValueError(NO_DISTANCES)
        return in_groups(alibi_bias(distances, slopes, kind, offsets))

    def in_groups(bias: Tensor) -> Tensor:
        return bias if groups is None or bias.shape[1] == 1 else bias.squeeze(2).unflatten(1, (groups, -1))

    if learned:
        return make()
    key = (*(None if each is None else tuple(each) for each in (slopes, offsets)), dtype, distances.shape, groups)
    return once(mask, "bias", key, make)


AttentionInterface.register(ATTENTION_NAME, alibi_attention)
AttentionMaskInterface.register(ATTENTION_NAME, alibi_distances)
