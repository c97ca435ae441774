"""What one can have from the original without converting it: the arms of `alibi eval`, and one that is slow and stays here.

streaming    window+sinks as StreamingLLM has it (Xiao et al. 2023, arXiv 2309.17453): the first tokens are rotated as if they stood right
             before the window. With the rotation of their true place, far beyond L, SmolLM2 no longer finds them after some 12,500 tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from alibi_cli.evaluation import arms
from alibi_cli.evaluation.arms import SINKS

BLOCK = 512  # queries at a time: the mask is BLOCK x (window + BLOCK)


@contextmanager
def arm_of(model: Any, name: str, *, trained_length: int, length: int) -> Iterator[None]:
    """While it lasts, a Llama computes sequences of `length` tokens as the arm does; "full" is the model as it is. streaming takes a size
    as the windows do."""
    kind, _, size = name.partition(":")
    reach = int(size or trained_length)
    if kind != "streaming" or length <= reach:
        with arms.arm_of(model, "full" if kind == "streaming" else name, trained_length=trained_length, length=length):
            yield
        return
    own, implementation = model.config._attn_implementation, f"study_{name}"
    attend = partial(_attend, window=reach - SINKS, frequencies=model.model.rotary_emb.inv_freq)
    AttentionInterface.register(implementation, attend)
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = own


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float = 1.0,
    *,
    window: int,
    frequencies: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, D), key and value (B, G, T, D) of whole sequences without padding -> (B, T, H, D).

    frequencies: (D / 2,) of the rotation; queries see the first tokens from no farther than window + SINKS - 1.
    """
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    place, parts = torch.arange(length, device=query.device), []
    for start in range(0, length, BLOCK):
        stop, low = min(start + BLOCK, length), max(0, start - window + 1)
        seen = torch.cat([place[: min(SINKS, low)], place[low:stop]])  # keys of this block
        distance = place[start:stop, None] - seen  # (block, keys)
        visible = (distance >= 0) & ((distance < window) | (seen < SINKS))
        queries, keys, values = query[:, :, start:stop], key[:, :, seen], value[:, :, seen]
        if stop > window + SINKS:
            back = (window + SINKS - 1 - place[start:stop]).clamp(max=0)
            near = _turned(queries, back[:, None] * frequencies)  # what queries would be at the end of window + SINKS
            # A query of twice the width: one half meets the sinks, the other half the window.
            queries, width = torch.cat([queries, near], -1), queries.shape[-1]
            keys = torch.cat([pad(keys[:, :, :SINKS], (width, 0)), pad(keys[:, :, SINKS:], (0, width))], 2)
            values = pad(values, (0, width))  # as wide, for the kernel that holds no matrix of scores
        part = scaled_dot_product_attention(queries, keys, values, attn_mask=visible, scale=scaling)
        parts.append(part[..., : query.shape[-1]])
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def _turned(vectors: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(B, H, Q, D) vectors, the pair (f, f + D / 2) turned by angle (Q, D / 2)[:, f], as Llama's rotation does."""
    first, second = vectors.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
