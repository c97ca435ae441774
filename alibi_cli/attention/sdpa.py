"""Torch's fused kernel with the bias of every head materialised, (H, Q, K): the reference that every other backend is compared with."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from alibi_cli.attention.near_sinks import NearSinks, layer_of
from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention, alibi_distances
from alibi_cli.shapes import Keys, PerHead, Queries


@dataclass(frozen=True)
class SdpaConfig(AttentionConfig):
    """No settings."""

    takes_sinks: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True
    takes_near_sinks: ClassVar[bool] = True


@register_attention("sdpa", SdpaConfig)
def sdpa(
    query: Queries,
    key: Keys,
    value: Keys,
    slopes: PerHead,
    causal: bool,
    sinks: int = 0,
    offsets: PerHead | None = None,
    near_sinks: NearSinks | None = None,
) -> Queries:
    """Distances and bias are computed again by every call."""
    distances = alibi_distances(
        query.shape[0],
        query.shape[2],
        key.shape[2],
        q_offset=key.shape[2] - query.shape[2],
        mask_function=causal_mask_function if causal else bidirectional_mask_function,
        device=query.device,
        config=SimpleNamespace(alibi_sinks=sinks),
    )
    distances = distances.entries() if isinstance(distances, Compact) else distances  # (1, 1, Q, K)
    return alibi_attention(layer_of(slopes.tolist(), offsets, near_sinks), query, key, value, distances)[0].transpose(
        1, 2
    )
