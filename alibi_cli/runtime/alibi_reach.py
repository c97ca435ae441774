"""How far away a key can be and still matter: a bound that is read from the data, for each head and block of queries.

Key j at distance d weighs exp(s_j - s_i - m d) times as much as the query's own key i. Whatever c is, s_j - s_i is at most b - q.(k_i - c)
with q scaled, b being the lesser of |q| max |k - c| and, over dimensions, the sum of max q (k - c). Once m d exceeds that by
ln(2 n max |v| / (epsilon |v_i|)), what all such keys give together has a norm below the rounding of the query's own share p_i v_i: n is
the sum of e^(-m d) over all d on both sides, or K if that is less; epsilon is that of float32, also for 16 bits. With an offset, m d stands
for m max(0, d - offset): beyond it, where alone keys are left out, the bias of D + k is that of D less m k, at most the sum of those of D
and k, so that n, which counts the distances up to the offset as well, is enough. Sinks have no bias and are never left out; they only add
to the sum that a query's weights are divided by. A soft cap brings scores closer together, never farther apart. c is the mean key. See
docs/decisions/011-bias-as-a-view.md.

Shapes: B batch, H heads, Q queries, which are the last Q of K positions, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

CACHED = 1 << 18  # numbers that are worked on at a time, and stay in the processor's cache


@torch.no_grad()
@torch.autocast("cpu", enabled=False)  # which would round products to 16 bits
def reaches(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    line: Tensor,
    block: int,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    s_aux: Tensor | None,
    *rest: Any,
) -> list[list[int]]:
    """[blocks][H]: distances beyond which no key changes the result but by rounding, where queries see themselves; K if that is not known.

    query (B, H, Q, D), key and value (B, H, K, D); line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down. Blocks of `block` queries are
    counted from the last query back.
    """
    (heads, queries), (keys, width) = query.shape[1:3], key.shape[2:]
    wants_gradient = any(tensor.requires_grad for tensor in (query, key, value, line))
    every = queries <= block or not query.numel() or wants_gradient or s_aux is not None
    if every or line.shape[1] != heads or line.device.type != "cpu":
        return [[keys] * heads] * -(-queries // block)
    past = line[0, :, 0, :keys].to(torch.promote_types(line.dtype, torch.float32)).contiguous()
    scaling = width**-0.5 if scaling is None else scaling
    # The bound is at least ln(2 n / epsilon). A head that would look so far that next to nothing is left out is not worth the time.
    nearest = keys - 1 - torch.searchsorted(past, -_of_rounding(past, keys)[:, None])[:, 0]
    worth_it = (nearest + 2 * block < keys).tolist()
    at_a_time, found = max(1, CACHED // (query[:, 0].numel() + key[:, 0].numel())), []
    for first in range(0, heads, at_a_time):
        some = slice(first, first + at_a_time)
        if not any(worth_it[some]):
            found.append(torch.full((len(worth_it[some]), -(-queries // block)), keys))
            continue
        bound = _bound(query[:, some], key[:, some], value[:, some], past[some], scaling)
        bound = bound.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(0).flip(-1)  # (H, Q) in reverse
        bound = pad(bound, (0, -queries % block), value=-torch.inf).unflatten(-1, (-1, block)).amax(-1)
        found.append(keys - 1 - torch.searchsorted(past[some], -bound))
    return torch.cat(found).T.tolist()


def _bound(query: Tensor, key: Tensor, value: Tensor, past: Tensor, scaling: float) -> Tensor:
    """(B, H, Q): what m d must exceed; past (H, K): bias at the distances K - 1 … 0, which never decreases."""
    (queries, width), keys, exact = query.shape[2:], key.shape[2], past.dtype
    query, centred, size = query.to(exact) * scaling, key.to(exact), value.to(exact).norm(dim=-1).log()
    centred = centred - centred.mean(2, keepdim=True)
    sphere = query.norm(dim=-1) * centred.norm(dim=-1).amax(-1, keepdim=True)
    # Sums of products, because a setting may let matrix products round their factors.
    above, below = (((sign * query).clamp_min_(0) * _largest(sign * centred)[:, :, None]).sum(-1) for sign in (1, -1))
    box = above + below
    own = (query * centred[:, :, keys - queries :]).sum(-1)
    epsilon = torch.finfo(exact).eps
    rounding = 4 * width * epsilon * sphere  # of the products
    margin = _of_rounding(past, keys)[:, None] + size.amax(-1, keepdim=True) - size[:, :, keys - queries :]
    return torch.minimum(sphere, box) - own + rounding + margin


def _of_rounding(past: Tensor, keys: int) -> Tensor:
    """(H,): ln(2 n / epsilon)"""
    n = (2 * past.exp().sum(-1)).clamp_max(keys)
    return (n * 2 / torch.finfo(past.dtype).eps).log()


def _largest(vectors: Tensor) -> Tensor:
    """(B, H, K, D) -> (B, H, D): of each dimension the largest. In two steps, because torch is slow where rows to be compared are short."""
    rows = vectors.shape[2] // 32
    of_parts = vectors[:, :, : 32 * rows].unflatten(2, (32, rows)).amax(2)
    return torch.cat([of_parts, vectors[:, :, 32 * rows :]], dim=2).amax(2)
