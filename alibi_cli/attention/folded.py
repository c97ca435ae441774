"""ALiBi without a bias in memory: the stock fused kernel, given the bias as two more dimensions of query and key.

A softmax does not change when a whole row is shifted, so under a causal mask -m_h (i - j) may be replaced by m_h (j - c), with any c that
is the same in the row. That is a product: m_h in an extra query dimension, j - c in an extra key dimension (FlashBias, arXiv 2505.12044).
An attention sink, whose bias is 0 at every distance, then has what the row was shifted by: m_h (i - c), times 1 in a dimension of its own.

What it costs in exactness: the score now holds m_h (j - c), whose size is rounded with it. c is therefore the middle of a block of
queries, and every block is a call of its own: keys that carry weight for a steep head lie near c, and the error does not grow with the
length.

Limits: causal only (-m|i - j| is no such product, nor is a bias that begins at an offset), sinks at their own distance only (queries that
are turned for them would be as wide again), no soft caps, and 16-bit input is computed in float32, because positions above 256 are not
whole numbers in bfloat16.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.errors import UsageError
from alibi_cli.shapes import Keys, PerHead, Queries

EXTRA = 8  # kernels want head widths that are multiples of 8; two of the extra dimensions are used


@dataclass(frozen=True)
class FoldedConfig(AttentionConfig):
    """block: queries per call of the kernel; a smaller block is more exact and slower. Measured with 12 heads of 64 at 4096 tokens in
    float32: error 1.1e-5 for 512, 2.5e-5 for 1024, 1.2e-4 for one block of 4096.

    Raises:
        AlibiError: block is not a positive whole number.
    """

    block: int = 1024
    symmetric: ClassVar[bool] = False
    takes_sinks: ClassVar[bool] = True
    tolerance: ClassVar[dict[str, float]] = {"float64": 1e-12, "float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise UsageError(f"block must be a positive whole number, not {self.block!r}.")


@register_attention("folded", FoldedConfig)
def folded(
    query: Queries,
    key: Keys,
    value: Keys,
    slopes: PerHead,
    causal: bool,
    block: int,
    sinks: int = 0,
) -> Queries:
    """Slopes are float32, or float64 for float64 input."""
    n_queries, n_keys, width = query.shape[2], key.shape[2], query.shape[3]
    groups, scale, exact = query.shape[1] // key.shape[1], width**-0.5, slopes.dtype
    position = torch.arange(n_keys, device=query.device)
    slope = (slopes / scale)[:, None]  # the kernel multiplies by scale
    wide_value = pad(value.to(exact), (0, EXTRA)).repeat_interleave(groups, dim=1)  # (B, H, K, D + EXTRA)
    query, key, dtype = query.to(exact), key.to(exact), query.dtype
    outputs = []
    for begin in range(0, n_queries, block):
        end = min(begin + block, n_queries)
        seen = n_keys - n_queries + end  # keys that the last query of the block sees
        first = seen - (end - begin)  # position of the first query of the block
        offset = (position[:seen] - (first + seen - 1) / 2).to(exact)  # j - c, exact: halves of whole numbers
        is_sink = position[:seen] < sinks
        of_query = torch.stack([slope.expand(-1, end - begin), slope * offset[first:]], dim=-1)  # (H, block, 2)
        of_key = torch.stack([offset.masked_fill(is_sink, 0), is_sink.to(exact)], dim=-1)  # (seen, 2)
        wide_query, wide_key = _widened(query[:, :, begin:end], of_query), _widened(key[:, :, :seen], of_key)
        wide_key = wide_key.repeat_interleave(groups, dim=1)  # (B, H, seen, D + EXTRA)
        # The kernel's own causal mask starts at the top left, which is right for the first block of a full sequence only.
        mask = None if first == 0 else position[:seen] <= position[first:seen, None]  # (block, seen), for all heads
        outputs.append(
            scaled_dot_product_attention(
                wide_query,
                wide_key,
                wide_value[:, :, :seen],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
            )[..., :width]
        )
    return torch.cat(outputs, dim=2).to(dtype)


def _widened(tensor: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(B, N, L, D) and (N or none, L, 2) -> (B, N, L, D + EXTRA)"""
    columns = columns.expand(*tensor.shape[:3], 2)
    return pad(torch.cat([tensor, columns], dim=-1), (0, EXTRA - 2))
