"""The attention of converted checkpoints: torch's fused kernel, a block of queries at a time, which reads the bias as an overlapping view
of one line of numbers per head. Nothing of size Q x K is made."""

from dataclasses import dataclass
from typing import ClassVar

from alibi_cli.attention.near_sinks import NearSinks, layer_of
from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention
from alibi_cli.shapes import Keys, PerHead, Queries


@dataclass(frozen=True)
class BlockedConfig(AttentionConfig):
    """No settings."""

    takes_sinks: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True
    takes_near_sinks: ClassVar[bool] = True


@register_attention("blocked", BlockedConfig)
def blocked(
    query: Queries,
    key: Keys,
    value: Keys,
    slopes: PerHead,
    causal: bool,
    sinks: int = 0,
    offsets: PerHead | None = None,
    near_sinks: NearSinks | None = None,
) -> Queries:
    distances = Compact.of(query.shape[2], key.shape[2], causal, query.device, sinks=sinks)
    return alibi_attention(layer_of(slopes.tolist(), offsets, near_sinks), query, key, value, distances)[0].transpose(
        1, 2
    )
