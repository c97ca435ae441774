"""FlexAttention: the bias is a function of the score, compiled into one kernel; blocks of keys that a causal mask hides are never read.

What GPUs run best. On a CPU it has no backward pass, and the other backends need no compiler.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from alibi_cli.attention.near_sinks import NearSinks
from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.shapes import Keys, PerHead, Queries

BLOCK = 128  # queries and keys of a block: FlexAttention's own default


@dataclass(frozen=True)
class FlexConfig(AttentionConfig):
    """compiled: one fused kernel, compiled at the first call, which takes seconds; else torch's own reference, which holds all scores at
    once and is exact in float64 as well. None: compiled on a GPU."""

    compiled: bool | None = None
    takes_sinks: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True
    takes_near_sinks: ClassVar[bool] = True
    no_gradients_on: ClassVar[frozenset[str]] = frozenset({"cpu"})


@register_attention("flex", FlexConfig)
def flex(
    query: Queries,
    key: Keys,
    value: Keys,
    slopes: PerHead,
    causal: bool,
    compiled: bool | None,
    sinks: int = 0,
    offsets: PerHead | None = None,
    near_sinks: NearSinks | None = None,
) -> Queries:
    queries, keys = query.shape[2], key.shape[2]
    past = torch.tensor(
        keys - queries, device=query.device
    )  # a number would be compiled again for every length of a cache

    def add_bias(score: torch.Tensor, b: Any, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        ramp = (i + past - j).abs() if offsets is None else ((i + past - j).abs() - offsets[h]).clamp_min(0)
        return score - slopes[h] * (ramp * (j >= sinks) if sinks else ramp)

    scale = query.shape[-1] ** -0.5
    if near_sinks is not None:  # how a query changes as it is turned, times the key of a sink: as many dimensions more
        query = torch.cat([query, near_sinks.turned(query, keys) - query], dim=-1)
        key = torch.cat([key, pad(key[:, :, :sinks], (0, 0, 0, keys - sinks))], dim=-1)
    if compiled is None:
        compiled = query.device.type != "cpu"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # on purpose
        attend: Any = _compiled() if compiled else flex_attention
        output: torch.Tensor = attend(
            query,
            key,
            value,
            score_mod=add_bias,
            scale=scale,
            block_mask=causal_blocks(queries, keys, query.device) if causal else None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return output


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is cached must serve training as well
def causal_blocks(queries: int, keys: int, device: torch.device) -> BlockMask:
    """Which blocks of keys each block of queries sees in part and in full, from the lengths alone; nothing of size Q x K is made."""
    past = torch.tensor(keys - queries, device=device)
    first = past + torch.arange(0, queries, BLOCK, device=device)  # position of the first query of each block
    last = (first + BLOCK).clamp_max(keys) - 1
    full, seen = (first + 1) // BLOCK, last // BLOCK + 1  # blocks of keys that all queries see; that some do
    order = torch.arange(-(-keys // BLOCK), device=device)
    partial = (full[:, None] + order) % len(order)  # the blocks after the full ones come first

    def visible(b: Any, h: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return i + past >= j

    return BlockMask.from_kv_blocks(
        (seen - full).int()[None, None],
        partial.int()[None, None],
        full.int()[None, None],
        order.int().expand(len(first), -1)[None, None].contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(queries, keys),
    )
