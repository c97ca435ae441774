"""Queries attended to keys: by a fused kernel where one can do it, else by scores and weights that are written out.

Shapes: B batch, H heads, Q queries, K keys, N sinks that stand beside them, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .alibi_sinks import attend_beside_sinks, can_attend_beside


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    scaling: float,
    dropout: float,
    softcap: float | None,
    s_aux: Tensor | None,
    training: bool,
    shows_weights: bool,
    sinks: tuple[Tensor | None, Tensor, Tensor] | None = None,
    far: tuple[Any, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(B, H, Q, D), (B, H, K, D), (B, H, K, D), (B, H, Q, K) -> (B, Q, H, D), weights (B, H, Q, K) or None

    sinks: queries (B, H, Q, D) if not the same, keys and values (B, H, N, D) of sinks that every query sees. far: (columns, what to add to
    their scores).
    """
    fused = softcap is None and s_aux is None and not shows_weights
    if sinks is not None and fused and can_attend_beside(query, value, bias, dropout):
        sink_query, sink_key, sink_value = sinks
        sink_query = query if sink_query is None else sink_query
        return attend_beside_sinks(query, key, value, bias, sink_query, sink_key, sink_value, scaling).transpose(
            1, 2
        ), None
    if sinks is not None:
        sink_query, sink_key, sink_value = sinks
        if sink_query is not None:
            far = slice(0, sink_key.shape[2]), (sink_query - query) @ sink_key.mT * scaling
        key, value = torch.cat([sink_key, key], dim=2), torch.cat([sink_value, value], dim=2)
        bias = pad(bias, (sink_key.shape[2], 0))
    if far is not None and fused:
        bias = _with_more(bias if len(bias) == len(query) else bias.expand(len(query), -1, -1, -1), *far)
    if fused:
        output = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
        return output.transpose(1, 2), None
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, Q, K)
    if far is not None:
        scores = _with_more(scores, *far)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    # The lowest score plus the lowest bias would be -inf in float16: a query that sees nothing, which is padding, would become NaN, and by
    # its value so would every token of the next layer.
    scores = scores + bias
    scores = scores.clamp_min(torch.finfo(scores.dtype).min)
    if s_aux is not None:
        own = s_aux.reshape(1, scores.shape[1], -1, 1).expand(*scores.shape[:3], 1)  # (B, H, Q, 1)
        scores = torch.cat([scores, own.to(scores.dtype)], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)[..., : key.shape[-2]]
    output = torch.nn.functional.dropout(weights, dropout, training) @ value
    return output.transpose(1, 2), weights


def _with_more(scores: Tensor, columns: Any, more: Tensor) -> Tensor:
    """A copy of `scores` (B, H, Q, K) with `more` (B, H, Q, n) added to some columns, which are indices or a slice."""
    scores = scores.clone()
    scores[..., columns] += more.to(scores.dtype)
    return scores
