"""Attention sinks that queries see from a distance at most, for backends: how a query is turned before it meets them.

A backend that computes with the runtime's attention gives it a layer like a converted model's; others turn the queries.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from alibi_cli.runtime.alibi_sinks import frequencies_of, turn_back, turn_query
from alibi_cli.shapes import PerHead, Queries


@dataclass(frozen=True, eq=False)
class NearSinks:
    """distance: in tokens; queries that are farther from the first key are rotated back by the rest before they meet sinks. frequencies
    (R / 2,): of the rotation of the first R dimensions of queries and keys, in radians a token. interleaved: it rotates neighbouring
    dimensions together, and not those of the two halves."""

    distance: int
    frequencies: torch.Tensor
    interleaved: bool = False

    @classmethod
    def of(cls, module: Any) -> "NearSinks":
        """As an attention module has it that `sees_sinks_as_near`."""
        return cls(module.config.alibi_sink_distance, frequencies_of(module), module.alibi_rotation[1])

    def turned(self, query: Queries, keys: int) -> Queries:
        """What queries, the last of `keys` positions, are when they meet sinks."""
        position = torch.arange(keys - query.shape[2], keys, device=query.device)
        turn = turn_back(self.frequencies, position[None, None], self.distance, query.dtype)
        return turn_query(layer_of([], None, self), query, turn)


def layer_of(slopes: Any, offsets: PerHead | None, near: NearSinks | None) -> Any:
    """What `alibi_attention` asks of an attention module."""
    layer = SimpleNamespace(alibi_slopes=slopes, alibi_offsets=None, training=False)
    if offsets is not None:
        layer.alibi_offsets = offsets.tolist()
    if near is not None:
        layer.alibi_rotation = SimpleNamespace(inv_freq=near.frequencies), near.interleaved
        layer.config = SimpleNamespace(alibi_sink_distance=near.distance)
    return layer
