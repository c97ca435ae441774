"""One query against all the keys of a cache, as in decoding, where every operation counts.

The bias of a query that is the last of K positions and sees them all is the end of a line of numbers that its layer keeps, so nothing is
computed. Sinks, which get no bias, are put before a copy of it: zeros, or what is added to their scores where they are farther away than
`alibi_sink_distance`. All heads turn their queries alike, which is one product with a matrix that all layers share.

Shapes: B batch, G key/value heads, H / G query heads of each, K keys, N sinks, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .alibi_distances import once, sloped
from .alibi_sinks import frequencies_of, matrix_of, sees_sinks_as_near, turn_back

SPARE = 256  # keys, at least, for which a layer's line has room beyond those that are asked for


def is_row(mask: Tensor) -> bool:
    """True for what `row_of` makes. A graph that is being compiled is not to depend on it."""
    return not torch.compiler.is_compiling() and hasattr(mask, "alibi_row")


def bias_and_far(
    module: Any, row: Any, query: Tensor, key: Tensor, scaling: float, softcap: float | None
) -> tuple[Tensor, tuple[Any, Tensor] | None]:
    """query (B, G, H / G, D), or (B, H, 1, D), and key (B, G or H, K, D) -> bias (1 or B, G, H / G, K) or (1 or B, H, 1, K), 0 for sinks,
    which are the first `row.alibi_row` keys, plus what they get where they are far; with a soft cap that is (columns, what is to be added
    to their scores before it) instead."""
    keys, sinks, line = row.shape[-1], row.alibi_row, _line(module, row.shape[-1], query)
    others = line.narrow(-1, line.shape[-1] - keys + sinks, keys - sinks)
    if not sinks:  # other kernels want rows that do not begin where they please
        return others if others.device.type == "cpu" else others.clone(), None
    far = _of_far_sinks(module, row, query, key.narrow(2, 0, sinks), scaling)
    if far is None or softcap is not None:
        return pad(others, (sinks, 0)), None if far is None else (slice(0, sinks), far)
    return torch.cat([far.to(others.dtype), others.expand(len(far), -1, -1, -1)], dim=-1), None


def _of_far_sinks(module: Any, row: Tensor, query: Tensor, sinks: Tensor, scaling: float) -> Tensor | None:
    """(B, G, H / G, N) or (B, H, 1, N): what sinks (B, G or H, N, D) get beside their scores; None where the first is not too far away."""
    if not sees_sinks_as_near(module) or row.shape[-1] - 1 <= module.config.alibi_sink_distance:
        return None
    limit, frequencies, width = module.config.alibi_sink_distance, frequencies_of(module), query.shape[-1]

    def turn() -> Tensor:
        """(D, D): how a query changes as it turns, times the scaling"""
        distance = torch.full((1, 1, 1), row.shape[-1] - 1, device=query.device)
        return matrix_of(module, width, turn_back(frequencies, distance, limit, query.dtype))[0] * scaling

    matrix = once(row, "turn", (limit, frequencies, query.dtype, scaling), turn)
    change = query.to(matrix.dtype).reshape(-1, width) @ matrix
    more = change.view(-1, query.shape[2], width) @ sinks.to(matrix.dtype).flatten(0, 1).mT
    return more.view(*query.shape[:-1], sinks.shape[2])


def _line(module: Any, keys: int, query: Tensor) -> Tensor:
    """(1, G, H / G, L) or (1, H, 1, L), L >= keys: -m max(0, d - o) for the distances d from L - 1 down to 0, in the queries' dtype."""
    slopes, offsets = module.alibi_slopes, getattr(module, "alibi_offsets", None)
    of = tuple(slopes), None if offsets is None else tuple(offsets), query.dtype, query.device, query.shape[1:3]
    kept: tuple[Any, Tensor] | None = getattr(module, "alibi_line", None)
    if kept is None or kept[0] != of or kept[1].shape[-1] < keys:
        exact, length = torch.promote_types(query.dtype, torch.float32), keys + max(SPARE, keys // 8)
        with torch.inference_mode(False):  # it may be needed where a gradient is taken
            ramp = torch.arange(1 - length, 1, dtype=exact, device=query.device)
            line = sloped(ramp[None, None, None], slopes, offsets).clamp_min_(torch.finfo(query.dtype).min)
            kept = module.alibi_line = of, line.to(query.dtype).view(1, *query.shape[1:3], -1)
    return kept[1]
