"""Attention under a bias that is a view: blocks of queries, each with the keys from the first to the last that it sees.

With the queries in reverse order the bias is a Hankel matrix, entry (r, j) = line[r + j], which is a view of a line of Q + K - 1 numbers,
and the fused kernel reads it through its strides, a block of queries at a time. If some keys in between are hidden, as at the edges of
windows and of packed documents, a block's bias is a copy. Keys too far away to matter are left out (alibi_reach.py). Attention sinks, which
get no bias, are attended to beside the others (alibi_sinks.py).

Shapes: B batch, H heads, Q queries, K keys, D head width.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from .alibi_distances import Compact, once, runs
from .alibi_parts import Parts
from .alibi_reach import reaches
from .alibi_scores import attend
from .alibi_sinks import far_sinks, frequencies_of, sees_sinks_as_near, turn_back, turn_query, what_far_sinks_add

STEP = 64  # spans of keys begin and end at multiples of this, so that heads of similar reach share a call


def attend_in_blocks(
    module: Any, query: Tensor, key: Tensor, value: Tensor, line: Tensor, compact: Compact, options: tuple[Any, ...]
) -> Tensor:
    """As `alibi_attention`; line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down to 1 - Q, of the `Compact`.

    A line that is being learned gets its gradient from the scores of a block, which are computed again in the backward pass.
    """
    queries, keys, block = query.shape[2], key.shape[2], compact.block
    learns = line.requires_grad and torch.is_grad_enabled()
    place: Any
    free: Any
    attend_block: Any = partial(checkpoint, attend, use_reentrant=False) if learns else attend
    lowest = torch.finfo(line.dtype).min
    lines = {False: line, True: pad(line[..., :keys], (0, queries - 1), value=lowest)}
    as_near = sees_sinks_as_near(module)
    reach_of_blocks, outputs = reaches(query, key, value, line, block, *options), []
    blocks = zip(range(0, queries, block), _reversed(query, block), reach_of_blocks, compact.spans, strict=True)
    of_key, of_value = Parts(key), Parts(value)
    for first, rows, reach, parts in blocks:
        low, high, of_batch = keys - first - rows.shape[2], keys - first, []  # the positions of the block
        place = torch.arange(high - 1, low - 1, -1, device=query.device) if as_near else None
        for batch, begin, end, seen, own, sinks in parts:
            gaps, free = isinstance(seen, torch.Tensor), isinstance(sinks, torch.Tensor) or sinks > 0
            # Sinks stand beside the other keys, except where gaps mix the two, where a query of the block may not see all of them, where
            # there are no others, and for a single query, whose bias is but a row.
            apart = not gaps and begin + sinks < end and (low >= begin + sinks or not seen) and rows.shape[2] > 1
            beside = sinks if free and apart else 0
            first_key, mixed, near = begin + beside, free and not beside, []
            for d in reach:  # what is left out is compared with what a query gives itself
                start, stop = (low - d) // STEP * STEP, -(-(high + d) // STEP) * STEP
                stop = max(
                    min(end, stop), first_key + 1
                )  # sinks may reach farther than the block's queries, and be more than they are
                near.append((max(first_key, start), stop) if own and not mixed else (first_key, end))
            is_far = free and as_near and high - 1 - begin > module.config.alibi_sink_distance
            if is_far and not gaps:
                nearer = _nearer(module, rows[batch], compact, (high, begin), place - begin)
            of_heads = []
            for (start, stop), some in runs(near):  # neighbouring heads with equal spans
                bias = lines[not gaps and seen][0, some, 0, first + start : first + rows.shape[2] + stop - 1]
                bias = bias.unfold(-1, stop - start, 1)[None]  # (1, heads of the run, rows, keys), a view
                if gaps:
                    bias = bias.masked_fill(~seen[..., start - begin : stop - begin], lowest)
                elif mixed or bias.device.type != "cpu":
                    bias = bias.clone()  # other kernels want rows that do not overlap: one block at a time
                if mixed:
                    free = _free(begin, end, seen, sinks, high - 1, rows.shape[2], bias.device)
                    bias.masked_fill_(free, 0)
                near_keys = of_key[batch, some, start:stop], of_value[batch, some, start:stop]
                of_sinks = far = None
                if beside:
                    others = slice(begin, first_key)
                    sink_rows = nearer[:, some] if is_far else None
                    of_sinks = sink_rows, of_key[batch, some, others], of_value[batch, some, others]
                elif is_far and gaps:
                    away = (place[:, None] - torch.arange(start, stop, device=place.device)).abs()
                    found = far_sinks(free, away, module.config.alibi_sink_distance)
                    far = found and what_far_sinks_add(
                        _change(module, rows[batch, some], found[1], options[0]), near_keys[0], found
                    )
                elif is_far:  # the first keys; a query that does not see all of them is near
                    more = (nearer[:, some] - rows[batch, some]) @ near_keys[0][:, :, :sinks].mT * options[0]
                    far = slice(0, sinks), more
                of_heads.append(attend_block(rows[batch, some], *near_keys, bias, *options, learns, of_sinks, far)[0])
            of_batch.append(torch.cat(of_heads, dim=2))
        outputs.append(torch.cat(of_batch).flip(1))
    return torch.cat(outputs[::-1], dim=1)


def _reversed(query: Tensor, block: int) -> Iterator[Tensor]:
    """Blocks of rows (B, H, at most `block`, D), the last queries first: row r of all is query i = Q - 1 - r, at position K - 1 - r."""
    queries = query.shape[2]
    sizes = [min(block, queries - first) for first in range(0, queries, block)]
    for rows in query.split(sizes[::-1], dim=2)[::-1]:  # not sliced: see Parts
        yield rows.flip(2)


def _free(begin: int, end: int, seen: Any, sinks: Any, last: int, queries: int, device: Any) -> Tensor:
    """(…, Q, K) booleans: where a query sees a sink, for the queries from position `last` back and a part of `Compact.spans`."""
    if isinstance(sinks, torch.Tensor):
        return sinks & seen
    key, place = torch.arange(begin, end, device=device), torch.arange(last, last - queries, -1, device=device)
    is_sink = key < begin + sinks
    return is_sink & (key <= place[:, None]) if seen else is_sink


def _nearer(module: Any, query: Tensor, mask: Tensor, place: Any, distance: Tensor) -> Tensor:
    """`turn_query`; the angles are those of a place in the mask that all layers receive."""
    limit, frequencies = module.config.alibi_sink_distance, frequencies_of(module)

    def angles() -> tuple[Tensor, Tensor]:
        return turn_back(frequencies, distance, limit, query.dtype)

    return turn_query(module, query, once(mask, ("angles", place), (limit, frequencies, query.dtype), angles))


def _change(module: Any, query: Tensor, distance: Tensor, scaling: float) -> Tensor:
    turn = turn_back(frequencies_of(module), distance, module.config.alibi_sink_distance, query.dtype)
    return (turn_query(module, query, turn) - query) * scaling
