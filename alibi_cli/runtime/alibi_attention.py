"""ALiBi attention (Press et al. 2021, arXiv 2108.12409) as a transformers attention implementation.

Two functions are registered under one name. The *mask* function knows where every query and key stands (alibi_distances.py). The
*attention* function turns the distances into each head's bias with the slopes of the module that calls it. A module without slopes
(cross-attention) uses them as a mask only.

With the queries in reverse order the bias is a Hankel matrix, entry (r, j) = line[r + j], which is a view of a line of Q + K - 1 numbers,
and the fused kernel reads it through its strides, a block of queries at a time. A block is given the keys from the first to the last that
it sees; if some in between are hidden, as at the edges of windows and of packed documents, its bias is a copy. Keys too far away to matter
are left out (alibi_reach.py). Attention sinks, which get no bias, are attended to beside the others (alibi_sinks.py). A single query has
a row of a line that its layer keeps (alibi_decoding.py).

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface

from .alibi_decoding import bias_and_far, is_row
from .alibi_distances import HIDDEN, SINK, Compact, alibi_distances, once, runs, sloped
from .alibi_parts import Parts
from .alibi_reach import reaches
from .alibi_sinks import (
    attend_beside_sinks,
    can_attend_beside,
    far_sinks,
    frequencies_of,
    matrix_of,
    sees_sinks_as_near,
    turn_back,
    turn_query,
    what_far_sinks_add,
)

# Attention names are global to the process: the version keeps two generations of these files from overwriting each other.
ATTENTION_NAME = "alibi_v2"
STEP = 64  # spans of keys begin and end at multiples of this, so that heads of similar reach share a call

NO_DISTANCES = (
    "ALiBi attention takes distances from the mask that the model builds itself; a ready-made 4-D attention mask carries none. "
    "Pass a 2-D attention mask (1 = token, 0 = padding) instead."
)


def alibi_bias(distances: Tensor, slopes: Any, dtype: torch.dtype, offsets: Any = None) -> Tensor:
    """(B, 1, Q, K) from alibi_distances -> (B, H, Q, K) additive bias, the lowest finite value where hidden.

    -m_h * |i - j|; with offsets o_h, -m_h * max(0, |i - j| - o_h); 0 for a sink. Computed in float32 (float64 for a float64 model) and
    rounded once: near keys, which carry the weight, stay exact in bfloat16. Slopes and offsets that are tensors keep their gradient.
    """
    lowest = torch.finfo(dtype).min
    if slopes is None:
        return torch.zeros_like(distances, dtype=dtype).masked_fill_(distances == HIDDEN, lowest)
    exact = torch.promote_types(dtype, torch.float32)
    ramp = (distances + 1).to(exact).masked_fill_(distances < SINK, 0)  # (B, 1, Q, K)
    bias = sloped(ramp, slopes, offsets)
    return bias.masked_fill_(distances == HIDDEN, lowest).clamp_min_(lowest).to(dtype)


def alibi_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """softmax(scaling * q.k - m_h * |i - j|) v for query (B, H, Q, D) and key, value (B, G, K, D) -> (B, Q, H, D).

    The bias is added after the scaling and the soft cap and never multiplied by either. `s_aux` are learned sinks: one
    more score per head, which takes part in the softmax and has no value. A relative bias of the family's own (1, H, Q, K) is added where
    the module has a true `alibi_keeps_relative_bias`. The weights (B, H, Q, K) are the second result if the module has a true
    `alibi_keeps_weights`, else None.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        raise ValueError(NO_DISTANCES)
    keeps_weights = getattr(module, "alibi_keeps_weights", False)
    relative = kwargs.get("position_bias") if getattr(module, "alibi_keeps_relative_bias", False) else None
    watch = getattr(module, "alibi_watch", None)  # a hook of calibration, which chooses slopes by queries and keys
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    batch, heads, queries, groups = *query.shape[:3], key.shape[1]
    as_rows = queries == 1 and groups != heads and relative is None and watch is None
    if as_rows:  # decoding: the heads of a group are rows of one product, and what is cached is not copied
        query = query.reshape(batch, groups, heads // groups, query.shape[-1])
    elif groups != heads:  # every query head keeps its own slope
        key, value = (each.repeat_interleave(heads // groups, dim=1) for each in (key, value))  # (B, H, K, D)
    if watch is not None:
        watch(module, query, key, attention_mask, scaling, softcap, s_aux, kwargs.get("sliding_window"))
    options = (scaling, dropout, softcap, s_aux, module.training)
    same_keys = attention_mask.shape[-1] == key.shape[2]
    in_blocks = same_keys and relative is None and not keeps_weights and not as_rows
    if in_blocks and isinstance(attention_mask, Compact):
        line = _bias_of_layer(module, attention_mask.line, attention_mask.line, query.dtype)
        return _in_blocks(module, query, key, value, line, attention_mask, options).contiguous(), None
    entries = attention_mask if same_keys else attention_mask[..., : key.shape[2]]
    if is_row(entries) and isinstance(getattr(module, "alibi_slopes", None), list):  # neither learned nor missing
        bias, far = bias_and_far(module, entries, query, key, scaling, softcap)
    else:
        bias = _bias_of_layer(module, entries, attention_mask, query.dtype, groups if as_rows else None)
        far = _far_sinks(module, query, key, entries, attention_mask, scaling)
    if relative is not None:
        bias = (bias + relative).clamp_min(torch.finfo(query.dtype).min)
    explicit = keeps_weights or (bias.dtype != query.dtype)  # learned in 16 bits
    output, weights = _attend(query, key, value, bias, *options, explicit, far=far)
    if as_rows:
        output = output.transpose(1, 2).reshape(batch, 1, heads, value.shape[-1])
        weights = None if weights is None else weights.reshape(batch, heads, 1, key.shape[2])
    return output.contiguous(), weights if keeps_weights else None


def _in_blocks(
    module: Any, query: Tensor, key: Tensor, value: Tensor, line: Tensor, compact: Compact, options: tuple[Any, ...]
) -> Tensor:
    """As `alibi_attention`; line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down to 1 - Q, of the `Compact`.

    A line that is being learned gets its gradient from the scores of a block, which are computed again in the backward pass.
    """
    queries, keys, block = query.shape[2], key.shape[2], compact.block
    learns = line.requires_grad and torch.is_grad_enabled()
    place: Any
    free: Any
    attend: Any = partial(checkpoint, _attend, use_reentrant=False) if learns else _attend
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
                of_heads.append(attend(rows[batch, some], *near_keys, bias, *options, learns, of_sinks, far)[0])
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


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    scaling: float,
    dropout: float,
    softcap: float | None,
    s_aux: Tensor | None,
    training: bool,
    shows_weights: bool,
    sinks: tuple[Tensor | None, Tensor, Tensor] | None = None,
    far: tuple[Any, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(B, H, Q, D), (B, H, K, D), (B, H, K, D), (B, H, Q, K) -> (B, Q, H, D), weights (B, H, Q, K) or None

    sinks: queries (B, H, Q, D) if not the same, keys and values (B, H, N, D) of sinks that every query sees. far: (columns, what to add to
    their scores).
    """
    fused = softcap is None and s_aux is None and not shows_weights
    if sinks is not None and fused and can_attend_beside(query, value, bias, dropout):
        sink_query, sink_key, sink_value = sinks
        sink_query = query if sink_query is None else sink_query
        return attend_beside_sinks(query, key, value, bias, sink_query, sink_key, sink_value, scaling).transpose(
            1, 2
        ), None
    if sinks is not None:
        sink_query, sink_key, sink_value = sinks
        if sink_query is not None:
            far = slice(0, sink_key.shape[2]), (sink_query - query) @ sink_key.mT * scaling
        key, value = torch.cat([sink_key, key], dim=2), torch.cat([sink_value, value], dim=2)
        bias = pad(bias, (sink_key.shape[2], 0))
    if far is not None and fused:
        bias = _with_more(bias if len(bias) == len(query) else bias.expand(len(query), -1, -1, -1), *far)
    if fused:
        output = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
        return output.transpose(1, 2), None
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, Q, K)
    if far is not None:
        scores = _with_more(scores, *far)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + bias
    if s_aux is not None:
        own = s_aux.reshape(1, scores.shape[1], -1, 1).expand(*scores.shape[:3], 1)  # (B, H, Q, 1)
        scores = torch.cat([scores, own.to(scores.dtype)], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)[..., : key.shape[-2]]
    output = torch.nn.functional.dropout(weights, dropout, training) @ value
    return output.transpose(1, 2), weights


def _with_more(scores: Tensor, columns: Any, more: Tensor) -> Tensor:
    """A copy of `scores` (B, H, Q, K) with `more` (B, H, Q, n) added to some columns, which are indices or a slice."""
    scores = scores.clone()
    scores[..., columns] += more.to(scores.dtype)
    return scores


def _far_sinks(
    module: Any, query: Tensor, key: Tensor, entries: Tensor, mask: Tensor, scaling: float
) -> tuple[Any, Tensor] | None:
    """What is to be added to the scores of some columns, (columns, (B, H, Q, n)), None if nothing; entries: of the mask that all layers
    receive."""
    if not sees_sinks_as_near(module) or entries.shape[-1] - 1 <= module.config.alibi_sink_distance:
        return None
    limit, frequencies, one_query = module.config.alibi_sink_distance, frequencies_of(module), entries.shape[-2] == 1

    def find() -> Any:
        """`far_sinks` and the turn of the queries, which is a matrix if there is one query, whose heads all turn alike"""
        found = far_sinks((entries < SINK) & (entries != HIDDEN), SINK - 1 - entries, limit)
        if found is None:
            return None
        turn = turn_back(frequencies, found[1], limit, query.dtype)
        return found, matrix_of(module, query.shape[-1], turn) * scaling if one_query else turn

    far = once(mask, "far sinks", (limit, frequencies, entries.shape, query.dtype, scaling), find)
    if far is None:
        return None
    found, turn = far
    if one_query:
        change = (query.flatten(1, 2).to(turn.dtype) @ turn).view(query.shape)
    else:
        change = (turn_query(module, query, turn) - query) * scaling
    return what_far_sinks_add(change, key, found)


def _nearer(module: Any, query: Tensor, mask: Tensor, place: Any, distance: Tensor) -> Tensor:
    """`turn_query`; the angles are those of a place in the mask that all layers receive."""
    limit, frequencies = module.config.alibi_sink_distance, frequencies_of(module)

    def angles() -> tuple[Tensor, Tensor]:
        return turn_back(frequencies, distance, limit, query.dtype)

    return turn_query(module, query, once(mask, ("angles", place), (limit, frequencies, query.dtype), angles))


def _change(module: Any, query: Tensor, distance: Tensor, scaling: float) -> Tensor:
    turn = turn_back(frequencies_of(module), distance, module.config.alibi_sink_distance, query.dtype)
    return (turn_query(module, query, turn) - query) * scaling


def _bias_of_layer(
    module: Any, distances: Tensor, mask: Tensor, dtype: torch.dtype, groups: int | None = None
) -> Tensor:
    """(B, H, Q, K), or (B, groups, H / groups, K) for one query. Layers with equal slopes share one bias for the length of a forward pass;
    distances: of the mask that all layers receive."""
    slopes, offsets = getattr(module, "alibi_slopes", None), getattr(module, "alibi_offsets", None)
    learned = isinstance(slopes, torch.Tensor)  # the gradient is a sum over distances, for which 16 bits are too few
    kind = torch.promote_types(dtype, torch.float32) if learned else dtype

    def make() -> Tensor:
        if not torch.compiler.is_compiling() and distances.numel() and distances.max() >= 0:
            raise ValueError(NO_DISTANCES)
        return in_groups(alibi_bias(distances, slopes, kind, offsets))

    def in_groups(bias: Tensor) -> Tensor:
        return bias if groups is None or bias.shape[1] == 1 else bias.squeeze(2).unflatten(1, (groups, -1))

    if learned:
        return make()
    key = (*(None if each is None else tuple(each) for each in (slopes, offsets)), dtype, distances.shape, groups)
    return once(mask, "bias", key, make)


AttentionInterface.register(ATTENTION_NAME, alibi_attention)
AttentionMaskInterface.register(ATTENTION_NAME, alibi_distances)
