"""ALiBi attention (Press et al. 2021, arXiv 2108.12409) as a transformers attention implementation.

Two functions are registered under one name. The *mask* function knows where every query and key stands, whatever the cache, the
padding or the packing; it returns -1 - |i - j|, with HIDDEN where a key may not be seen. The *attention* function turns the distances
into each head's bias with the slopes of the module that calls it. A module without slopes (cross-attention) uses them as a mask
only. All entries are negative, so that no mask of zeros and ones can pass for distances.

A distance depends on i - j alone, so nothing of size Q x K is made: with the queries in reverse order the bias is a Hankel matrix,
entry (r, j) = line[r + j], which is a view of a line of Q + K - 1 numbers, and the fused kernel reads it through its strides, a block of
queries at a time. A block is given the keys from the first to the last that it sees; if some in between are hidden, as at the edges of
windows and of packed documents, its bias is a copy. Keys too far away to matter are left out (alibi_reach.py).

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

from functools import cache
from itertools import groupby

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from .alibi_reach import reaches

# Attention names are global to the process: the version keeps two generations of these files from overwriting each other.
ATTENTION_NAME = "alibi_v1"
HIDDEN = torch.iinfo(torch.int32).min
BLOCK = 256  # queries per call of the kernel: few enough to skip the hidden half, enough to keep the kernel busy
STEP = 64  # spans of keys begin and end at multiples of this, so that heads of similar reach share a call

NO_DISTANCES = (
    "ALiBi attention takes distances from the mask that the model builds itself; a ready-made 4-D attention mask carries none. "
    "Pass a 2-D attention mask (1 = token, 0 = padding) instead."
)


class Compact(torch.Tensor):
    """(B or 1, 1, Q, K): distances of queries that are the last Q of K positions, held as a line and, block by block, what is seen.

    line: (1, 1, 1, Q + K - 1) int32, -1 - |d| for the differences d = i - j from K - 1 down to 1 - Q.
    causal: True if all keys up to the query are seen, False if all keys are, None if it depends on the query.
    spans: for each BLOCK of queries, the last first, a list of (rows of the batch, first key, last key + 1, seen, own).
    seen: True, the keys up to the query; False, all; or (1, 1, block, keys) booleans. own: whether each query sees itself.
    Attention reads these. Whatever else is done to this tensor (slicing, arithmetic, moving) is done to all Q x K entries.
    """

    @staticmethod
    def of(queries, keys, causal, device, spans=None, batch=1, entries=None):
        """Without spans: one sequence without gaps. entries() -> all Q x K of them, should anyone ask."""
        difference = torch.arange(keys - 1, -queries, -1, dtype=torch.int32, device=device)
        self = difference.new_zeros(()).expand(batch, 1, queries, keys).as_subclass(Compact)
        self.line = line = (-1 - difference.abs())[None, None, None]
        self.causal, self.spans, self.entries = causal, spans, entries and cache(entries)
        if spans is None:
            ends = [keys - first if causal else keys for first in range(0, queries, BLOCK)]
            self.spans = [[(slice(None), 0, end, causal, True)] for end in ends]
            whole = pad(line[..., :keys], (0, queries - 1), value=HIDDEN) if causal else line
            self.entries = cache(lambda: whole.squeeze(2).unfold(-1, keys, 1).flip(-2))
        return self

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _OF_SHAPE:
            return super().__torch_function__(function, types, args, kwargs)
        args, kwargs = tree_map_only(cls, lambda compact: compact.entries(), (args, kwargs))
        return function(*args, **kwargs)


# What may be asked about a tensor without reading its entries.
_OF_SHAPE = {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")}
_OF_SHAPE |= {torch.Tensor.size, torch.Tensor.dim}


def alibi_distances(
    batch_size,
    q_length,
    kv_length,
    q_offset=0,
    kv_offset=0,
    mask_function=causal_mask_function,
    attention_mask=None,
    device="cpu",
    use_vmap=False,
    **kwargs,
):
    """(B or 1, 1, Q, K) int32: -1 - |i - j| for query i and key j, HIDDEN where the mask hides the key.

    Integers, so that a distance is exact at any length and cannot be mistaken for a float or boolean mask. `Compact` where it can be.
    """

    def seen(first, last):
        """(B or 1, 1, last - first, K) booleans"""
        seen = sdpa_mask(
            batch_size=batch_size,
            q_length=last - first,
            kv_length=kv_length,
            q_offset=q_offset + first,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            device=device,
            use_vmap=use_vmap,
            allow_is_causal_skip=False,
            allow_is_bidirectional_skip=False,
        )
        return seen[:1] if seen.stride(0) == 0 else seen  # one mask, expanded over the batch: keep the one

    def entries():
        query = torch.arange(q_length, device=device) + q_offset
        key = torch.arange(kv_length, device=device) + kv_offset
        distance = (query[:, None] - key[None, :]).abs()  # (Q, K)
        return torch.where(seen(0, q_length), -1 - distance, HIDDEN).to(torch.int32)

    # Static caches, which are longer than what they hold, give a tensor as q_offset.
    last = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length and q_length <= kv_length
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not last:
        return entries()
    causal = mask_function is causal_mask_function
    if (causal or mask_function is bidirectional_mask_function) and (
        attention_mask is None or (attention_mask.shape[-1] >= kv_offset + kv_length and attention_mask.all())
    ):
        return Compact.of(q_length, kv_length, causal, device)
    if q_length <= BLOCK:
        return entries()
    spans, batch = _spans(seen, q_length, kv_length, device)
    return Compact.of(q_length, kv_length, None, device, spans, batch, entries)


def _spans(seen, queries, keys, device):
    """`Compact.spans` and the batch of a mask; seen(first, last) -> (B or 1, 1, last - first, K) booleans."""
    spans, key = [], torch.arange(keys, device=device)
    for first in range(0, queries, BLOCK):
        last = min(first + BLOCK, queries)
        place = torch.arange(keys - 1 - first, keys - 1 - last, -1, device=device)[
            :, None
        ]  # of each query of the block
        block = seen(queries - last, queries - first).flip(2)[:, 0]  # (B, block, K)
        by_any = block.any(1).int()  # (B, K)
        begin, end = by_any.argmax(1), keys - by_any.flip(1).argmax(1)
        end = end.where(by_any.any(1), 1)  # padding sees nothing: one hidden key will do
        between = ((key >= begin[:, None]) & (key < end[:, None]))[:, None]  # (B, 1, K)
        up_to_query, all_keys = ((block == rule).flatten(1).all(1) for rule in (between & (key <= place), between))
        own = block.gather(2, place.expand(len(block), -1, 1)).flatten(1).all(1)
        # Rows of the batch that see the same keys go together; those with gaps alone, since each needs a bias of its own.
        alone = torch.arange(len(block), device=device).masked_fill(up_to_query | all_keys, -1)
        rows, parts = torch.stack([begin, end, up_to_query, own, alone], dim=1).tolist(), []
        for (begin, end, up_to_query, own, alone), batch in _runs(rows):
            kept = bool(up_to_query) if alone < 0 else block[batch, None, :, begin:end].clone()
            parts.append((batch if len(rows) > 1 else slice(None), begin, end, kept, bool(own)))
        spans.append(parts)
    return spans, len(rows)


def alibi_bias(distances, slopes, dtype):
    """(B, 1, Q, K) from alibi_distances -> (B, H, Q, K) additive bias -m_h * |i - j|; the lowest finite value where hidden.

    Computed in float32 (float64 for a float64 model) and rounded once: near keys, which carry the weight, stay exact in bfloat16.
    """
    lowest = torch.finfo(dtype).min
    if slopes is None:
        return torch.zeros_like(distances, dtype=dtype).masked_fill_(distances == HIDDEN, lowest)
    exact = torch.promote_types(dtype, torch.float32)
    slopes = torch.as_tensor(slopes, dtype=exact, device=distances.device)  # a tensor keeps its gradient
    bias = (distances + 1) * slopes[:, None, None]  # (B, H, Q, K)
    return bias.masked_fill_(distances == HIDDEN, lowest).clamp_min_(lowest).to(dtype)


def alibi_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, s_aux=None, **kwargs
):
    """softmax(scaling * q.k - m_h * |i - j|) v for query (B, H, Q, D) and key, value (B, G, K, D) -> (B, Q, H, D).

    The bias is added after the scaling and the soft cap and never multiplied by either. `s_aux` are attention sinks: one
    more score per head, which takes part in the softmax and has no value. The weights (B, H, Q, K) are the second result if the module
    has a true `alibi_keeps_weights`, else None.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        raise ValueError(NO_DISTANCES)
    if query.shape[1] != key.shape[1]:  # grouped queries: every query head keeps its own slope
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, K, D)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    keeps_weights = getattr(module, "alibi_keeps_weights", False)
    options = (scaling, dropout, softcap, s_aux, module.training, keeps_weights)
    compact = isinstance(attention_mask, Compact) and attention_mask.shape[-1] == key.shape[-2]
    slopes = getattr(module, "alibi_slopes", None)
    learns = isinstance(slopes, torch.Tensor) and slopes.requires_grad and torch.is_grad_enabled()
    if learns:  # their gradient must be a sum over distances, for which 16 bits are too few: see `_with_gradient`
        rough = query.element_size() < 4 or torch.is_autocast_enabled(query.device.type)
        compact = compact and attention_mask.causal and softcap is None and s_aux is None and not rough
    if compact and not keeps_weights:
        line, width = _bias_of_layer(module, attention_mask.line, query.dtype).detach(), value.shape[-1]
        if learns:
            options = (query.shape[-1] ** -0.5 if scaling is None else scaling, *options[1:])
            query, key, value = _with_gradient(query, key, value, slopes, options[0])
        return _in_blocks(query, key, value, line, attention_mask.spans, options)[..., :width].contiguous(), None
    bias = _bias_of_layer(module, attention_mask[..., : key.shape[-2]], query.dtype)
    output, weights = _attend(query, key, value, bias, *options)
    return output.contiguous(), weights


def _with_gradient(query, key, value, slopes, scaling):
    """Query, key and value with a dimension more, whose scores are nought and whose gradient is that of the slopes.

    The score s_ij of a causal head has the derivative -(i - j) by m, and the gradient by a row of scores sums to nought, so j - c does
    as well as -(i - j), for any c. That is a product: m - m.detach(), which is nought, in the query and j - c in the key. The kernel then
    needs no gradient by the bias, for which it would make matrices of scores. Eight dimensions: kernels want multiples of that. In 16
    bits neighbouring positions would be rounded to one, and neighbours are all that a steep head sees.
    """
    place = torch.arange(key.shape[2], device=key.device).to(key.dtype) - (key.shape[2] - 1) / 2
    place = place[:, None].expand(*key.shape[:3], 1)
    nought = ((slopes - slopes.detach()) / scaling).to(query.dtype)[None, :, None, None].expand(*query.shape[:3], 1)
    query, key = (pad(torch.cat(parts, dim=-1), (0, 7)) for parts in ((query, nought), (key, place)))
    return query, key, pad(value, (0, query.shape[-1] - value.shape[-1]))


def _in_blocks(query, key, value, line, spans, options):
    """As `alibi_attention`; line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down to 1 - Q; spans as those of `Compact`."""
    queries, keys = query.shape[2], key.shape[2]
    lowest = torch.finfo(line.dtype).min
    lines = {False: line, True: pad(line[..., :keys], (0, queries - 1), value=lowest)}
    reach_of_blocks, outputs = reaches(query, key, value, line, BLOCK, *options), []
    for first, reach, parts in zip(range(0, queries, BLOCK), reach_of_blocks, spans, strict=True):
        low, high = max(keys - queries, keys - first - BLOCK), keys - first  # the positions of the block
        # Row r is query i = Q - 1 - r, at position K - 1 - r.
        rows, of_batch = query[:, :, low - keys + queries : queries - first].flip(2), []
        for batch, begin, end, seen, own in parts:
            near = [  # what is left out is compared with what a query gives itself
                (max(begin, (low - d) // STEP * STEP), min(end, -(-(high + d) // STEP) * STEP)) if own else (begin, end)
                for d in reach
            ]
            of_heads = []
            for (start, stop), some in _runs(near):  # neighbouring heads with equal spans
                gaps = isinstance(seen, torch.Tensor)
                bias = lines[not gaps and seen][0, some, 0, first + start : first + rows.shape[2] + stop - 1]
                bias = bias.unfold(-1, stop - start, 1)[None]  # (1, heads of the run, rows, keys), a view
                if gaps:
                    bias = bias.masked_fill(~seen[..., start - begin : stop - begin], lowest)
                elif bias.device.type != "cpu":
                    bias = bias.contiguous()  # other kernels want rows that do not overlap: one block at a time
                near_keys = key[batch, some, start:stop], value[batch, some, start:stop]
                of_heads.append(_attend(rows[batch, some], *near_keys, bias, *options)[0])
            of_batch.append(torch.cat(of_heads, dim=2))
        outputs.append(torch.cat(of_batch).flip(1))
    return torch.cat(outputs[::-1], dim=1)


def _runs(values):
    """(value, slice) for each run of equal neighbours."""
    for value, run in groupby(range(len(values)), values.__getitem__):
        first, *rest = run
        yield value, slice(first, first + len(rest) + 1)


def _attend(query, key, value, bias, scaling, dropout, softcap, s_aux, training, keeps_weights):
    """(B, H, Q, D), (B, H, K, D), (B, H, K, D), (B, H, Q, K) -> (B, Q, H, D), weights (B, H, Q, K) or None"""
    if softcap is None and s_aux is None and not keeps_weights:
        output = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
        return output.transpose(1, 2), None
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)  # (B, H, Q, K)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + bias
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)  # (B, H, Q, 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)[..., : key.shape[-2]]
    output = torch.nn.functional.dropout(weights, dropout, training) @ value
    return output.transpose(1, 2), weights


def _bias_of_layer(module, distances, dtype):
    """Layers with equal slopes share one bias for the length of a forward pass: it lives on the distances they all receive."""
    slopes = getattr(module, "alibi_slopes", None)
    if torch.compiler.is_compiling() or isinstance(slopes, torch.Tensor):  # slopes that are being learned
        return alibi_bias(distances, slopes, dtype)
    owner = distances if distances._base is None else distances._base
    key = (None if slopes is None else tuple(slopes), dtype, distances.shape[-1])
    cached = getattr(owner, "_alibi_bias", None)
    if cached is None or cached[0] != key:
        if distances.numel() and distances.max() >= 0:  # once per forward, not once per layer
            raise ValueError(NO_DISTANCES)
        cached = (key, alibi_bias(distances, slopes, dtype))
        owner._alibi_bias = cached
    return cached[1]


AttentionInterface.register(ATTENTION_NAME, alibi_attention)
AttentionMaskInterface.register(ATTENTION_NAME, alibi_distances)
