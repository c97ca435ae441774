"""The attention of converted checkpoints: torch's fused kernel, a block of queries at a time, which reads the bias as an overlapping view
of one line of numbers per head. Nothing of size Q x K is made."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention
from alibi_cli.shapes import Keys, PerHead, Queries


@dataclass(frozen=True)
class BlockedConfig(AttentionConfig):
    """No settings."""

    takes_sinks: ClassVar[bool] = True


@register_attention("blocked", BlockedConfig)
def blocked(query: Queries, key: Keys, value: Keys, slopes: PerHead, causal: bool, sinks: int = 0) -> Queries:
    distances = Compact.of(query.shape[2], key.shape[2], causal, query.device, sinks=sinks)
    layer = SimpleNamespace(alibi_slopes=slopes.tolist(), training=False)
    return alibi_attention(layer, query, key, value, distances)[0].transpose(1, 2)
