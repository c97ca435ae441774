"""Attention to some keys with a bias and to others, the attention sinks, without one.

A bias that is a view of a line of numbers (alibi_blocks.py) has no room for keys whose bias is zero at every distance. So the two kinds
are attended to apart and put together by the logarithms of their sums: with o and l the output and the log-sum of the scores of the
biased keys, and s_n the scores of the sinks,

    L = ln(e^l + sum_n e^{s_n}),    output = e^{l - L} o + sum_n e^{s_n - L} v_n.

Where a rotation is kept, a sink that is farther away than the rotation was trained for is no longer recognised. So queries see sinks from
`alibi_sink_distance` tokens at most: those farther away are rotated back by the rest (compare StreamingLLM, Xiao et al. 2023, arXiv
2309.17453, which counts positions within its cache).

The gradient by either kind of key is that of one softmax over all of them: given the output and L of all, the fused kernel's backward pass
computes its own part exactly, as in ring attention (Liu et al. 2023, arXiv 2310.01889).

Shapes: B batch, H heads, Q queries, K biased keys, N sinks, D head width.
"""

from typing import Any

import torch
from torch import Tensor

from .alibi_parts import is_transformed

_FORWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def can_attend_beside(query: Tensor, value: Tensor, bias: Tensor, dropout: float) -> bool:
    """True where the kernel that gives the log-sums away can be used: on CPUs, without dropout, a gradient by the bias, or a transform."""
    known = _FORWARD is not None and _BACKWARD is not None and query.device.type == "cpu"
    plain = not dropout and not bias.requires_grad and not is_transformed()
    return known and plain and query.shape[-1] == value.shape[-1]


def sees_sinks_as_near(module: Any) -> bool:
    """True if the module has a rotation that is kept, and a distance from which sinks are seen at most."""
    return hasattr(module, "alibi_rotation") and getattr(module.config, "alibi_sink_distance", None) is not None


def frequencies_of(module: Any) -> Tensor:
    """(R / 2,): of the rotation of a module's queries and keys, R wide."""
    rotation, _ = module.alibi_rotation
    if hasattr(rotation, "inv_freq"):
        return rotation.inv_freq
    layer = getattr(module, "layer_idx", getattr(module, "layer_id", None))  # one set for each type of layer
    return getattr(rotation, f"{module.config.layer_types[layer]}_inv_freq")


def turn_by(frequencies: Tensor, by: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Distances (…, Q) -> cos and sin (…, Q, R / 2) of the angles by which queries are turned to be so much farther away. In float32, or
    float64 for float64."""
    of_angle = torch.float32 if by.device.type == "mps" else torch.float64  # angles of many turns
    exact = torch.promote_types(dtype, torch.float32)
    angle = by[..., None] * frequencies.to(device=by.device, dtype=of_angle)
    return angle.cos().to(exact), angle.sin().to(exact)


def turn_back(frequencies: Tensor, distance: Tensor, limit: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`turn_by` for queries at distances (…, Q) from the first sink that are to be at `limit` at most: zero angles where they are."""
    return turn_by(frequencies, (limit - distance).clamp_max(0), dtype)


def turn_query(module: Any, query: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, Q, D) rotated queries, `turn_by` or `turn_back` of their distances -> the same queries, turned.

    Rotated in float32 or better and rounded once; queries that are not turned stay as they are, to the bit.
    """
    (cos, sin), (_, interleaved) = turn, module.alibi_rotation
    width = 2 * cos.shape[-1]
    turned = query[..., :width].to(cos.dtype)
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, dim=-1)
    parts = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    turned = torch.stack(parts, dim=-1).flatten(-2) if interleaved else torch.cat(parts, dim=-1)
    turned = turned.to(query.dtype)
    return turned if width == query.shape[-1] else torch.cat([turned, query[..., width:]], dim=-1)


def matrix_of(module: Any, width: int, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(B, D, D) for `turn_back` (B, 1, 1, R / 2): the product of a query and this is how it changes as it turns."""
    unit = torch.eye(width, dtype=turn[0].dtype, device=turn[0].device).expand(len(turn[0]), 1, -1, -1)
    return (turn_query(module, unit, turn) - unit).squeeze(1)


def far_sinks(sink: Tensor, distance: Tensor, limit: int) -> tuple[Any, Tensor, Tensor | None] | None:
    """Of sinks (…, Q, K) that a query sees, at distances (…, Q, K): (columns that hold sinks, an index or a slice; distance (…, Q) of each
    query from the first that it sees; where these columns hold no sink (…, Q, n), None if they all do); None if none is farther away than
    `limit`."""
    farthest = torch.where(sink, distance, 0).amax(-1)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # what depends on the data cannot be asked for
        return slice(None), farthest, ~sink
    if not (farthest > limit).any():
        return None
    places = sink.flatten(0, -2).any(0).nonzero().squeeze(-1)
    first, last = int(places[0]), int(places[-1])
    columns = slice(first, last + 1) if last - first + 1 == len(places) else places  # a slice copies nothing
    others = ~sink[..., columns]
    return columns, farthest, others if others.any() else None


def what_far_sinks_add(change: Tensor, key: Tensor, found: tuple[Any, Tensor, Tensor | None]) -> tuple[Any, Tensor]:
    """How queries change (B, H, Q, D) as they turn, times the scale of scores; keys (B, H, K, D); what `far_sinks` found
    -> (columns, what is added to their scores (B, H, Q, n))"""
    columns, _, others = found
    more = change @ key[:, :, columns].to(change.dtype).mT
    return columns, more if others is None else more.masked_fill(others, 0)


def attend_beside_sinks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    sink_query: Tensor,
    sink_key: Tensor,
    sink_value: Tensor,
    scaling: float,
) -> Tensor:
    """query and sink_query (B, H, Q, D), key and value (B, H, K, D), bias (B or 1, H, Q, K), sinks (B, H, N, D) twice -> (B, H, Q, D)"""
    if torch.is_autocast_enabled("cpu"):  # which would round the sinks' scores and not the kernel's
        kind = torch.get_autocast_dtype("cpu")
        query, key, value, bias, sink_query, sink_key, sink_value = (
            x.to(kind) for x in (query, key, value, bias, sink_query, sink_key, sink_value)
        )
    with torch.autocast("cpu", enabled=False):
        return _BesideSinks.apply(query, key, value, bias, sink_query, sink_key, sink_value, scaling)


class _BesideSinks(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        sink_query: Tensor,
        sink_key: Tensor,
        sink_value: Tensor,
        scaling: float,
    ) -> Tensor:
        output, log_sum = _FORWARD(query, key, value, 0.0, False, attn_mask=bias, scale=scaling)
        scores = _scores(sink_query, sink_key, scaling)  # (B, H, Q, N)
        total = torch.logaddexp(log_sum.to(scores.dtype), scores.logsumexp(-1))  # (B, H, Q)
        weights = (scores - total[..., None]).exp_()
        share = (log_sum.to(scores.dtype) - total).exp_()[..., None]  # of the biased keys
        output = output.to(scores.dtype).mul_(share).add_(weights @ sink_value.to(scores.dtype)).to(query.dtype)
        inputs = query, key, value, bias, sink_query, sink_key, sink_value
        context.save_for_backward(*inputs, output, total.to(log_sum.dtype))
        context.scaling = scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value, bias, sink_query, sink_key, sink_value, output, total = context.saved_tensors
        scaling = context.scaling
        of_query, of_key, of_value = _BACKWARD(
            gradient.contiguous(), query, key, value, output, total, 0.0, False, attn_mask=bias, scale=scaling
        )
        weights = (_scores(sink_query, sink_key, scaling) - total[..., None]).exp()  # (B, H, Q, N)
        exact = gradient.to(weights.dtype)
        of_score = exact @ sink_value.to(exact.dtype).mT - (exact * output).sum(-1, keepdim=True)
        of_score = weights * of_score * scaling
        of_sink_query = (of_score @ sink_key.to(exact.dtype)).to(query.dtype)
        of_sink_key = (of_score.mT @ sink_query.to(exact.dtype)).to(key.dtype)
        of_sink_value = (weights.mT @ exact).to(value.dtype)
        return of_query, of_key, of_value, None, of_sink_query, of_sink_key, of_sink_value, None


def _scores(query: Tensor, sink_key: Tensor, scaling: float) -> Tensor:
    """(B, H, Q, N), in float32 or better"""
    exact = torch.promote_types(query.dtype, torch.float32)
    return query.to(exact) @ (sink_key.to(exact) * scaling).mT
