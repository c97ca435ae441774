"""Where every query and key stands: the mask function of ALiBi attention.

Whatever the cache, the padding or the packing, it returns -1 - |i - j| for query i and key j, HIDDEN where a key may not be seen. The
first tokens of each document can be attention sinks, whose keys get no bias: their entries are lower by -SINK. All entries are negative,
so that no mask of zeros and ones can pass for distances.

A distance depends on i - j alone, so nothing of size Q x K is made where that can be avoided: see `Compact`.

Shapes: B batch, Q queries, K keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_map_only
from transformers import AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

Made = TypeVar("Made")

HIDDEN = torch.iinfo(torch.int32).min
SINK = -(1 << 30)  # what lies below it is a sink, or hidden
NOT_PACKED = (
    "position_ids begin again, as in packed documents, and this model's mask does not keep the documents apart: each would be read with "
    "those before it. Give use_cache=False; if that does not help, the family has no packing: give the documents as rows of a padded batch."
)

# Where the positions that a model was given begin again, (B, Q) booleans, while its forward runs. Kept where the mask functions are: that
# of another copy of this file, which a checkpoint brought, may be the one that is registered.
restarts: ContextVar[Tensor | None] = vars(AttentionMaskInterface).get("alibi_restarts") or ContextVar(
    "alibi_restarts", default=None
)
setattr(AttentionMaskInterface, "alibi_restarts", restarts)  # noqa: B010

BLOCK = 256  # queries per call of the kernel: few enough to skip the hidden half, enough to keep the kernel busy


class Compact(torch.Tensor):
    """(B or 1, 1, Q, K): distances of queries that are the last Q of K positions, held as a line and, block by block, what is seen.

    line: (1, 1, 1, Q + K - 1) int32, -1 - |d| for the differences d = i - j from K - 1 down to 1 - Q.
    causal: True if all keys up to the query are seen, False if all keys are, None if it depends on the query.
    block: queries of a block, BLOCK when this was made.
    spans: for each block, the last first, a list of (rows of the batch, first key, last key + 1, seen, own, sinks).
    seen: True, the keys up to the query; False, all; or (1, 1, block, keys) booleans. own: whether each query sees itself.
    sinks: how many of the keys, from the first on, get no bias; booleans (keys,) where `seen` holds booleans.
    entries(): all Q x K of them.
    Attention reads these. Whatever else is done to this tensor (slicing, arithmetic, moving) is done to all Q x K entries.
    """

    line: Tensor
    causal: bool | None
    block: int
    spans: list[Any]
    entries: Callable[[], Tensor]

    @staticmethod
    def of(
        queries: int,
        keys: int,
        causal: bool | None,
        device: Any,
        spans: list[Any] | None = None,
        batch: int = 1,
        entries: Callable[[], Tensor] | None = None,
        sinks: int = 0,
    ) -> "Compact":
        """Without spans: one sequence without gaps; otherwise entries() as well. sinks: the first so many keys."""
        difference = torch.arange(keys - 1, -queries, -1, dtype=torch.int32, device=device)
        self: Compact = difference.new_zeros(()).expand(batch, 1, queries, keys).as_subclass(Compact)
        self.line = line = (-1 - difference.abs())[None, None, None]
        self.causal, self.block = causal, BLOCK
        if spans is not None and entries is not None:
            self.spans, self.entries = spans, cache(entries)
        else:
            ends = [keys - first if causal else keys for first in range(0, queries, BLOCK)]
            self.spans = [[(slice(None), 0, end, causal, True, min(sinks, end))] for end in ends]
            whole = pad(line[..., :keys], (0, queries - 1), value=HIDDEN) if causal else line
            free = torch.arange(keys, device=device) < sinks if sinks else None
            self.entries = cache(lambda: _with_sinks(whole.squeeze(2).unfold(-1, keys, 1).flip(-2), free))
        return self

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _OF_SHAPE:
            return super().__torch_function__(function, types, args, kwargs)
        args, kwargs = tree_map_only(cls, lambda compact: compact.entries(), (args, kwargs))
        return function(*args, **kwargs)


# What may be asked about a tensor without reading its entries.
_OF_SHAPE = {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")}
_OF_SHAPE |= {torch.Tensor.size, torch.Tensor.dim}


def alibi_distances(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    use_vmap: bool = False,
    config: Any = None,
    **kwargs: Any,
) -> Tensor:
    """(B or 1, 1, Q, K) int32: -1 - |i - j| for query i and key j, HIDDEN where the mask hides the key, lower by -SINK for sinks.

    Integers, so that a distance is exact at any length and cannot be mistaken for a float or boolean mask. `Compact` where it can be.
    config.alibi_sinks: how many first tokens of every document are sinks.
    """
    if not torch.compiler.is_compiling() and restarts.get() is not None:
        _check_packing(batch_size, kv_length, kv_offset, mask_function, device, use_vmap)
    sinks = getattr(config, "alibi_sinks", None) or 0
    causal = mask_function is causal_mask_function
    whole = causal or mask_function is bidirectional_mask_function  # one document

    def seen(first: int, last: int) -> Tensor:
        """(B or 1, 1, last - first, K) booleans"""
        seen: Any = sdpa_mask(
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

    def entries() -> Tensor:
        query = torch.arange(q_length, device=device) + q_offset
        key = torch.arange(kv_length, device=device) + kv_offset
        distance = (query[:, None] - key[None, :]).abs()  # (Q, K)
        distances = torch.where(seen(0, q_length), -1 - distance, HIDDEN).to(torch.int32)
        return _with_sinks(distances, None if free is None else free[:, None, None])  # (B or 1, K)

    # Static caches, which are longer than what they hold, give a tensor as q_offset.
    last = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length and q_length <= kv_length
    eager = torch.compiler.is_compiling() or torch.jit.is_tracing() or not last
    if (
        not eager
        and whole
        and (attention_mask is None or (attention_mask.shape[-1] >= kv_offset + kv_length and attention_mask.all()))
    ):
        if q_length == 1:  # decoding
            return row_of(kv_length, max(0, sinks - kv_offset), device)
        return Compact.of(q_length, kv_length, causal, device, sinks=max(0, sinks - kv_offset))
    free = None
    if sinks:
        packs = None if whole else mask_function
        free = first_tokens(sinks, batch_size, kv_length, kv_offset, packs, attention_mask, device, use_vmap)
    if eager or q_length <= BLOCK:
        return entries()
    spans, batch = _spans(seen, q_length, kv_length, device, free)
    return Compact.of(q_length, kv_length, None, device, spans, batch, entries)


def _check_packing(
    batch: int, keys: int, offset: int, mask_function: Callable[..., Any], device: Any, use_vmap: bool
) -> None:
    """Raises ValueError if a token whose position begins again sees the token before it."""
    found = restarts.get()
    if found is None:
        return
    again, first = found.to(device), offset + keys - found.shape[1]  # the queries are the last of the positions
    if (sees_previous(batch, offset + keys, mask_function, device, use_vmap)[:, max(first, 0) :] & again).any():
        raise ValueError(NOT_PACKED)


def sees_previous(
    batch: int, keys: int, mask_function: Callable[..., Any], device: Any, use_vmap: bool = False
) -> Tensor:
    """(B or 1, K) booleans: the positions whose query sees the key before it."""
    seen: Any = sdpa_mask(  # of one query, whose place the key takes
        batch_size=batch,
        q_length=1,
        kv_length=keys,
        mask_function=lambda row, head, _, key: mask_function(row, head, key, (key - 1).clamp(min=0)),
        device=device,
        use_vmap=use_vmap,
        allow_is_causal_skip=False,
    )
    seen = seen[:, 0, 0]
    return seen[:1] if seen.stride(0) == 0 else seen


def first_tokens(
    n: int,
    batch: int,
    keys: int,
    offset: int,
    mask_function: Callable[..., Any] | None,
    attention_mask: Tensor | None,
    device: Any,
    use_vmap: bool = False,
) -> Tensor:
    """(B or 1, K) booleans: the keys that are among the first `n` tokens of their document; padding is no token.

    A token that may not see the token before it begins a document (packing); mask_function None: there is one document. Keys are at the
    positions from `offset` on.
    """
    token = torch.ones(1, offset + keys, dtype=torch.bool, device=device)
    if attention_mask is not None:
        token = attention_mask[:, : offset + keys].to(device=device, dtype=torch.bool)
        token = pad(token, (0, offset + keys - token.shape[-1]), value=True)  # what a static cache has room for
    before = token.cumsum(-1) - token.long()  # tokens of the row before each place
    if mask_function is not None:
        begins, before = torch.broadcast_tensors(
            ~sees_previous(batch, offset + keys, mask_function, device, use_vmap), before
        )
        document = begins.long().cumsum(-1)  # the first has number 0, or 1 if its first token counts as a beginning
        # Not the running maximum of what begins, for which ONNX has no operator.
        start = pad(torch.zeros_like(before), (0, 1)).scatter(
            -1, torch.where(begins, document, 0), torch.where(begins, before, 0)
        )
        before = before - start.gather(-1, document)  # of the document
    return (token & (before < n))[:, offset:]


def row_of(keys: int, sinks: int, device: Any) -> Tensor:
    """(1, 1, 1, K): of one query, the last of the keys, which sees all of them. It says so: `alibi_row` is the number of sinks."""
    row: Any = torch.arange(-keys, 0, dtype=torch.int32, device=device)[None, None, None]
    if sinks:
        row[..., :sinks] += SINK
    row.alibi_row = min(sinks, keys)
    return row


def once(mask: Tensor, what: Any, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """make(), called once per forward pass: all layers get one mask, and the result is kept there, by name, until the key is another.

    A mask that is cut out of another is that other one. A graph that is being compiled keeps nothing. Tensors in a key are compared by
    identity.
    """
    if torch.compiler.is_compiling():
        return make()
    if not isinstance(mask, Compact) and mask._base is not None:
        mask = mask._base
    kept = mask.__dict__.setdefault("_alibi_kept", {})
    before = kept.get(what)
    if before is None or any(
        a is not b and (isinstance(a, torch.Tensor) or a != b) for a, b in zip(before[0], key, strict=True)
    ):
        before = kept[what] = key, make()
    return before[1]


def sloped(ramp: Tensor, slopes: Any, offsets: Any) -> Tensor:
    """(B, 1, Q, K) of -|i - j| -> (B, H, Q, K) of -m_h * max(0, |i - j| - o_h)"""
    slopes = torch.as_tensor(slopes, dtype=ramp.dtype, device=ramp.device)[:, None, None]
    if offsets is not None:
        offsets = torch.as_tensor(offsets, dtype=ramp.dtype, device=ramp.device)[:, None, None]
        ramp = -torch.relu(-ramp - offsets)  # no gradient by an offset at its edge, nor from a sink, as a clamp has
    return ramp * slopes


def _with_sinks(distances: Tensor, free: Tensor | None) -> Tensor:
    """`distances` with the entries of the keys that are `free` (…, K) lowered; hidden ones stay hidden."""
    return distances if free is None else torch.where(free & (distances != HIDDEN), distances + SINK, distances)


def distance_of(entries: Tensor) -> Tensor:
    """What `alibi_distances` holds without the mark of the sinks: -1 - |i - j| or HIDDEN."""
    return torch.where((entries < SINK) & (entries != HIDDEN), entries - SINK, entries)


def _spans(
    seen: Callable[[int, int], Tensor], queries: int, keys: int, device: Any, free: Tensor | None = None
) -> tuple[list[Any], int]:
    """`Compact.spans` and the batch of a mask; seen(first, last) -> (B or 1, 1, last - first, K) booleans; free as `first_tokens`."""
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
        sinks = torch.zeros_like(begin) if free is None else (free & between[:, 0]).expand(len(block), -1).sum(1)
        rows, parts = torch.stack([begin, end, up_to_query, own, sinks, alone], dim=1).tolist(), []
        for (begin, end, up_to_query, own, sinks, alone), batch in runs(rows):
            kept = bool(up_to_query) if alone < 0 else block[batch, None, :, begin:end].clone()
            of_keys = (
                free.expand(len(block), -1)[alone, begin:end] if free is not None and alone >= 0 and sinks else sinks
            )
            parts.append((batch if len(rows) > 1 else slice(None), begin, end, kept, bool(own), of_keys))
        spans.append(parts)
    return spans, len(rows)


def runs(values: Sequence[Any]) -> Iterator[tuple[Any, slice]]:
    """(value, slice) for each run of equal neighbours."""
    for value, run in groupby(range(len(values)), values.__getitem__):
        first, *rest = run
        yield value, slice(first, first + len(rest) + 1)
