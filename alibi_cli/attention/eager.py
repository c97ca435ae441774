"""ALiBi attention from its definition: scores, bias, mask, softmax, each held in memory at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from alibi_cli.attention.near_sinks import NearSinks
from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.shapes import Keys, PerHead, Queries


@dataclass(frozen=True)
class EagerConfig(AttentionConfig):
    """No settings."""

    takes_sinks: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True
    takes_near_sinks: ClassVar[bool] = True


@register_attention("eager", EagerConfig)
def eager(
    query: Queries,
    key: Keys,
    value: Keys,
    slopes: PerHead,
    causal: bool,
    sinks: int = 0,
    offsets: PerHead | None = None,
    near_sinks: NearSinks | None = None,
) -> Queries:
    """Scores and softmax are float32, or float64 for float64 input."""
    exact, n_queries, n_keys = slopes.dtype, query.shape[2], key.shape[2]
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))  # (B, H, K, D)
    query, key, dtype, scale = query.to(exact), key.to(exact), query.dtype, query.shape[-1] ** -0.5
    scores = query @ key.mT * scale  # (B, H, Q, K)
    if near_sinks is not None:
        scores[..., :sinks] = near_sinks.turned(query, n_keys) @ key[:, :, :sinks].mT * scale
    i = torch.arange(n_keys - n_queries, n_keys, device=query.device)[:, None]
    j = torch.arange(n_keys, device=query.device)[None, :]
    ramp = (i - j).abs() if offsets is None else ((i - j).abs() - offsets[:, None, None]).clamp_min(0)
    scores = scores - slopes[:, None, None] * ramp.masked_fill(j < sinks, 0)
    if causal:
        scores = scores.masked_fill(j > i, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value.to(exact)).to(dtype)
