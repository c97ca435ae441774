"""How far away a key can be and still matter: a bound that is read from the data, for each head and block of queries.

Key j at distance d gives exp(s_j - m d) |v_j| to the sum over keys, where another that the query sees gives exp(s_l - m e) |v_l| at
distance e. Whatever c is, s_j - s_l is at most b - q.(k_l - c) with q scaled, b being the lesser of |q| max |k - c| and, over dimensions,
the sum of max q (k - c). Once m d exceeds b + ln(2^24 n max |v|) - max_l (q.(k_l - c) - m e + ln |v_l|), all such keys together
are less than the rounding of what the best l gives: n is the sum of e^(-m d) over d = 0, 1, … on both sides, or K if that is less. A soft
cap brings scores closer together, never farther apart. c is the mean key. See docs/decisions/011-bias-as-a-view.md.

Shapes: B batch, H heads, Q queries, which are the last Q of K positions, D head width.
"""

import torch
from torch.nn.functional import pad

TILE = 32  # l is looked for in the tile of the query, up to itself; blocks hold whole tiles
LONG = 4096  # of so many queries on: before, l is the query's own position, because looking takes longer than what is left out
CACHED = 1 << 18  # numbers that are worked on at a time, and stay in the processor's cache


@torch.no_grad()
def reaches(query, key, value, line, block, scaling, dropout, softcap, s_aux, *rest):
    """Distances beyond which no key changes the result but by rounding, per block of queries and head; K where that is not known.

    query (B, H, Q, D), key and value (B, H, K, D); line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down. Blocks are counted from the
    last query back. Returns [blocks][H] where queries see the keys of their tiles up to themselves, and another where they see themselves.
    """
    (heads, queries), (keys, width) = query.shape[1:3], key.shape[2:]
    wants_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    every = queries <= block or not query.numel() or wants_gradient or s_aux is not None
    if every or line.shape[1] != heads or line.device.type != "cpu":
        return [[[keys] * heads] * -(-queries // block)] * 2
    past = line[0, :, 0, :keys].to(torch.promote_types(line.dtype, torch.float32)).contiguous()
    scaling = width**-0.5 if scaling is None else scaling
    at_a_time, found = max(1, CACHED // (query[:, 0].numel() + key[:, 0].numel())), ([], [])
    for first in range(0, heads, at_a_time):
        some = slice(first, first + at_a_time)
        bounds = _bounds(query[:, some], key[:, some], value[:, some], past[some], scaling)
        for distances, bound in zip(found, bounds, strict=True):
            reverse = bound.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(0).flip(-1)  # (H, Q)
            reverse = pad(reverse, (0, -queries % block), value=-torch.inf)
            distances.append(keys - 1 - torch.searchsorted(past[some], -reverse.unflatten(-1, (-1, block)).amax(-1)))
    return [torch.cat(distances).T.tolist() for distances in found]


def _bounds(query, key, value, past, scaling):
    """What m d must exceed, (B, H, Q), for the best l of the tile and for the query's own.

    past (H, K): bias at the distances K - 1 … 0, which never decreases.
    """
    (queries, width), keys, exact = query.shape[2:], key.shape[2], past.dtype
    epsilon = torch.finfo(exact).eps
    query, centred, size = query.to(exact) * scaling, key.to(exact), value.abs().amax(-1).to(exact).log()
    centred = centred - centred.mean(2, keepdim=True)
    sphere = query.norm(dim=-1) * centred.norm(dim=-1).amax(-1, keepdim=True)
    box = query.clamp_min(0) @ centred.amax(2)[..., None] + query.clamp_max(0) @ centred.amin(2)[..., None]
    n = (2 / -torch.expm1(past[:, -2])).clamp_max(keys)  # (H,)
    bound = torch.minimum(sphere, box[..., 0]) + 4 * width * epsilon * sphere  # products are rounded, too
    bound = bound + size.amax(-1, keepdim=True) + (n * 2 / epsilon).log()[:, None]
    last, size = centred[:, :, keys - queries :], size[:, :, keys - queries :]
    own = torch.linalg.vecdot(query, last) + size
    if queries < LONG:
        return bound - own, bound - own
    # Tiles end with the last query, as blocks do. What fills the first gives nothing.
    asking, last = (pad(part, (0, 0, -queries % TILE, 0)).unflatten(2, (-1, TILE)) for part in (query, last))
    behind = torch.arange(TILE)[:, None] - torch.arange(TILE)
    given = asking @ last.mT  # (B, H, tiles, TILE, TILE)
    given += past.flip(-1)[:, behind.clamp_min(0)].masked_fill_(behind < 0, -torch.inf)[:, None]
    given += pad(size, (-queries % TILE, 0), value=-torch.inf).unflatten(2, (-1, 1, TILE))
    return bound - given.amax(-1).flatten(2)[..., -queries:], bound - own
