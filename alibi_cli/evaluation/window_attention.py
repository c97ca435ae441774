"""Attention to a window of the latest tokens, and to the first tokens, as a transformers attention implementation.

Two functions go under one name. The *mask* function makes no mask: it notes the rule by which the model hides keys, and the window. The
*attention* function asks that rule for a block of queries at a time and gives the kernel the keys of that block alone, so that time grows
with length x window, and nothing of size length x length exists. Keys keep the positions, and so the rotations, that they have in the text;
streaming.py turns queries back that are too far away from the first of them.

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.streaming import meet_sinks
from alibi_cli.runtime import alibi_scores
from alibi_cli.shapes import Keys, Outputs, PerHead, Queries

BLOCK = 512  # queries per call of the kernel: its mask is BLOCK x (window + BLOCK)


def window_implementation(window: int, sinks: int = 0, near: bool = False) -> str:
    """The name under which transformers then finds attention of every query to itself and the window - 1 tokens before it, and to the first
    `sinks` tokens of the sequence.

    near: the first tokens are seen as if they stood right before the window, where a module has an `alibi_rotation`.

    A layer with a window of its own that is no larger than window + sinks keeps it, and gets no sinks.
    """
    name = f"alibi_window_{window}_{sinks}{'_near' * near}"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, partial(note_rule, window=window, sinks=sinks, near=near))
    return name


@dataclass(frozen=True)
class Rule:
    """Which keys queries see, for any of them. own: transformers' mask function of the model. offsets: the positions of the first query and
    the first key. near: the first tokens are seen as if right before the window."""

    own: Callable[..., torch.Tensor]
    window: int
    sinks: int
    q_offset: int
    kv_offset: int
    near: bool = False

    def seen(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Positions (Q,) and (K,) -> (1, 1, Q, K) booleans."""
        q, k = queries[None, None, :, None], keys[None, None, None, :]
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=queries.device)
        return self.own(zero, zero, q, k) & ((q - k < self.window) | (k < self.sinks))


def note_rule(
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    *,
    window: int,
    sinks: int,
    near: bool = False,
    **_: Any,
) -> Rule:
    """A mask function as transformers calls it."""
    if use_vmap or (attention_mask is not None and not attention_mask.all()):
        raise AlibiError("Window arms take sequences without padding, and causal masks to which nothing was added.")
    if local_size is not None and local_size <= window + sinks:
        window, sinks = local_size, 0
    elif local_size is not None:
        mask_function = causal_mask_function
    return Rule(mask_function, window, sinks, int(q_offset), int(kv_offset), near)


def attend(
    module: torch.nn.Module,
    query: Queries,
    key: Keys,
    value: Keys,
    attention_mask: Rule,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: PerHead | None = None,
    **_: Any,
) -> tuple[Outputs, None]:
    """As transformers' own attention functions."""
    if not isinstance(attention_mask, Rule):
        raise AlibiError("A window arm makes its mask itself; the model was given one, or made it in a way of its own.")
    rule, (n_queries, n_keys) = attention_mask, (query.shape[2], key.shape[2])
    if query.shape[1] != key.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, K, D)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    at_query = torch.arange(n_queries, device=query.device) + rule.q_offset
    at_key = torch.arange(n_keys, device=query.device) + rule.kv_offset
    n_sinks = min(n_keys, max(0, rule.sinks - rule.kv_offset))
    turns = rule.near and n_sinks > 0 and hasattr(module, "alibi_rotation")
    farthest = rule.window + rule.sinks - 1  # positions after the first token, of the last place in the window
    outputs = []
    for start in range(0, n_queries, BLOCK):
        stop = min(start + BLOCK, n_queries)
        ahead = rule.q_offset - rule.kv_offset  # of queries, in the numbering of keys
        near = slice(max(0, start + ahead - rule.window + 1), min(n_keys, stop + ahead))
        if near.start <= n_sinks:
            keys, values, at = key[:, :, : near.stop], value[:, :, : near.stop], at_key[: near.stop]
        else:
            keys, values = (torch.cat([t[:, :, :n_sinks], t[:, :, near]], dim=2) for t in (key, value))
            at = torch.cat([at_key[:n_sinks], at_key[near]])
        hidden = ~rule.seen(at_query[start:stop], at)  # (1, 1, block, keys of the block)
        bias = torch.zeros_like(hidden, dtype=query.dtype).masked_fill_(hidden, torch.finfo(query.dtype).min)
        block = query[:, :, start:stop], keys, values
        if turns and rule.q_offset + stop - 1 > farthest:
            block = meet_sinks(module, *block, at_query[start:stop], n_sinks, farthest)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = alibi_scores.attend(*block, bias, scale, dropout, softcap, s_aux, module.training, False)[0]
        outputs.append(output[..., : value.shape[-1]])
    return torch.cat(outputs, dim=1).contiguous(), None
