"""ALiBi without a bias in memory: the stock fused kernel, given the bias as one more dimension of query and key.

A softmax does not change when a whole row is shifted, so under a causal mask -m_h (i - j) may be replaced by m_h (j - c), with any c that
is the same in the row. That is a product: m_h in an extra query dimension, j - c in an extra key dimension (FlashBias, arXiv 2505.12044).

What it costs in exactness: the score now holds m_h (j - c), whose size is rounded with it. c is therefore the middle of a block of
queries, and every block is a call of its own: keys that carry weight for a steep head lie near c, and the error does not grow with the
length.

Limits: causal only (-m|i - j| is no such product), no attention sinks or soft caps, and 16-bit input is computed in float32, because
positions above 256 are not whole numbers in bfloat16.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from alibi_cli.attention.registry import AttentionConfig, register_attention
from alibi_cli.errors import EXIT_USAGE, AlibiError

EXTRA = 8  # kernels want head widths that are multiples of 8; one of the extra dimensions is used


@dataclass(frozen=True)
class FoldedConfig(AttentionConfig):
    """block: queries per call of the kernel; a smaller block is more exact and slower. Measured with 12 heads of 64 at 4096 tokens in
    float32: error 1.1e-5 for 512, 2.5e-5 for 1024, 1.2e-4 for one block of 4096.

    Raises:
        AlibiError: block is not a positive whole number.
    """

    block: int = 1024
    symmetric: ClassVar[bool] = False
    tolerance: ClassVar[dict[str, float]] = {"float64": 1e-12, "float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise AlibiError(f"block must be a positive whole number, not {self.block!r}.", exit_code=EXIT_USAGE)


@register_attention("folded", FoldedConfig)
def folded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, slopes: torch.Tensor, causal: bool, block: int
) -> torch.Tensor:
    """(B, H, Q, D), (B, G, K, D), (B, G, K, D), (H,) -> (B, H, Q, D); slopes are float32, or float64 for float64 input."""
    n_queries, n_keys, width = query.shape[2], key.shape[2], query.shape[3]
    groups, scale = query.shape[1] // key.shape[1], width**-0.5
    position = torch.arange(n_keys, device=query.device)
    slope = (slopes / scale)[None, :, None, None].expand(
        query.shape[0], -1, n_queries, 1
    )  # the kernel multiplies by scale
    wide_query = pad(torch.cat([query.to(slopes.dtype), slope], dim=-1), (0, EXTRA - 1))  # (B, H, Q, D + EXTRA)
    wide_value = pad(value.to(slopes.dtype), (0, EXTRA)).repeat_interleave(groups, dim=1)  # (B, H, K, D + EXTRA)
    key = key.to(slopes.dtype)
    outputs = []
    for begin in range(0, n_queries, block):
        end = min(begin + block, n_queries)
        seen = n_keys - n_queries + end  # keys that the last query of the block sees
        first = seen - (end - begin)  # position of the first query of the block
        offset = (position[:seen] - (first + seen - 1) / 2).to(slopes.dtype)  # j - c, exact: halves of whole numbers
        column = offset[:, None].expand(*key.shape[:2], seen, 1)
        wide_key = pad(torch.cat([key[:, :, :seen], column], dim=-1), (0, EXTRA - 1)).repeat_interleave(groups, dim=1)
        # The kernel's own causal mask starts at the top left, which is right for the first block of a full sequence only.
        mask = None if first == 0 else position[:seen] <= position[first:seen, None]  # (block, seen), for all heads
        outputs.append(
            scaled_dot_product_attention(
                wide_query[:, :, begin:end],
                wide_key,
                wide_value[:, :, :seen],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
            )[..., :width]
        )
    return torch.cat(outputs, dim=2).to(query.dtype)
