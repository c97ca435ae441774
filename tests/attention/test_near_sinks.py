"""Sinks that are seen from `alibi_sink_distance` tokens at most, against a loop over queries in float64 that rotates by hand.

The loop takes queries and keys before their rotation, and rotates each by its position; a query that meets a sink has the position of the
first sink that it sees plus the distance, if its own is greater. The attention function takes them rotated, as a model leaves them.
"""

from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    packed_sequence_mask_function,
    sliding_window_causal_mask_function,
)

import alibi_cli.runtime.alibi_blocks as runtime
import alibi_cli.runtime.alibi_distances as alibi_distances_module
from alibi_cli.runtime import alibi_scores
from alibi_cli.runtime.alibi_attention import alibi_attention, alibi_distances
from alibi_cli.runtime.alibi_distances import Compact

SLOPES, OFFSETS, SINKS, LIMIT = [0.5, 0.03, 2.0, 0.004], [0.0, 20.0, 3.5, 60.0], 3, 9
LENGTH, WIDTH, ROTATED = 70, 12, 8
FREQUENCIES = torch.tensor([1.0, 0.3, 0.05, 0.002])
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alibi_distances_module, "BLOCK", 16)
        patch.setattr(runtime, "STEP", 4)
        yield


def turn(x, position, interleaved=False, width=ROTATED):
    """Rotates the first dimensions of x (…, D) by position (…): as complex numbers, of which it holds neighbours or halves."""
    pairs = x[..., :width].unflatten(-1, (-1, 2) if interleaved else (2, -1))
    real, imaginary = pairs.unbind(-1 if interleaved else -2)
    position = torch.as_tensor(position, dtype=torch.float64)[..., None]
    number = torch.complex(real, imaginary) * torch.polar(
        torch.ones(()).double(), position * FREQUENCIES.double()[: width // 2]
    )
    parts = torch.stack([number.real, number.imag], -1 if interleaved else -2).flatten(-2)
    return torch.cat([parts, x[..., width:]], -1)


def by_loops(
    q, k, v, seen, sink, interleaved=False, width=ROTATED, limit=LIMIT, offsets=None, softcap=None, s_aux=None, slopes=SLOPES, sign=1
):  # fmt: skip
    """q (B, H, Q, D), k, v (B, G, K, D) float64, seen (B, Q, K), sink (B, K) -> (B, Q, H, D); queries are the last of the positions."""
    repeated = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    k, v = repeated
    slopes = torch.as_tensor(slopes, dtype=torch.float64)[:, None]
    offsets = torch.zeros(4, 1).double() if offsets is None else torch.as_tensor(offsets, dtype=torch.float64)[:, None]
    j, rows = torch.arange(k.shape[2]), []
    for b in range(len(q)):
        keys = turn(k[b], j, interleaved, width)
        for i in range(q.shape[2]):
            p = i + k.shape[2] - q.shape[2]
            free = seen[b, i] & sink[b]
            scores = keys @ turn(q[b, :, i], p, interleaved, width)[..., None]  # (H, K, 1)
            if free.any():
                near = min(p, int(free.nonzero()[0]) + limit)
                of_sinks = keys @ turn(q[b, :, i], p + sign * (near - p), interleaved, width)[..., None]
                scores = torch.where(free[:, None], of_sinks, scores)
            scores = scores[..., 0] / q.shape[-1] ** 0.5
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            ramp = torch.relu((p - j).abs() - offsets).masked_fill(free, 0)
            scores = (scores - slopes * ramp).masked_fill(~seen[b, i], -torch.inf)
            if s_aux is not None:
                scores = torch.cat([scores, s_aux.double()[:, None]], -1)
            weights = scores.softmax(-1).nan_to_num(0)[:, : k.shape[2]]  # padding sees nothing
            rows.append((weights[:, None] @ v[b])[:, 0])
    return torch.stack(rows).unflatten(0, (len(q), -1))


def qkv(queries=LENGTH, keys=LENGTH, groups=2, batch=1, requires_grad=False):
    generator = torch.Generator().manual_seed(11)
    shapes = (4, queries), (groups, keys), (groups, keys)
    made = [torch.randn(batch, *shape, WIDTH, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def ours(
    q,
    k,
    v,
    distances,
    dtype=torch.float64,
    interleaved=False,
    width=ROTATED,
    limit=LIMIT,
    offsets=None,
    slopes=SLOPES,
    **options,
):
    keeps = options.pop("keeps", False)
    module = SimpleNamespace(
        alibi_slopes=slopes,
        alibi_offsets=offsets,
        alibi_keeps_weights=keeps,
        alibi_rotation=(SimpleNamespace(inv_freq=FREQUENCIES[: width // 2]), interleaved),
        config=SimpleNamespace(alibi_sink_distance=limit),
        training=False,
    )
    q = turn(q, torch.arange(k.shape[2] - q.shape[2], k.shape[2]), interleaved, width).to(dtype)
    k = turn(k, torch.arange(k.shape[2]), interleaved, width).to(dtype)
    out, weights = alibi_attention(module, q, k, v.to(dtype), distances, **options)
    if keeps:
        assert (
            (weights @ v.repeat_interleave(4 // v.shape[1], 1).to(dtype)).transpose(1, 2) - out
        ).abs().max() <= 1e-12
    assert out.dtype == dtype
    return out


def wrong(exact, oracle, tolerance, **options):
    """Whether what is wrong would be seen: no limit, one token farther, turned the other way."""
    changes = dict(limit=10**6), dict(limit=LIMIT + 1), dict(sign=-1)
    return all((oracle(**{**options, **change}) - exact).abs().max() > tolerance for change in changes)


PLACES = torch.arange(LENGTH)
LEFT = torch.tensor([[0], [25]]) <= PLACES
HOLES = (PLACES < 1) | (PLACES > 6) & (PLACES != 20)
PACKS = torch.stack([PLACES // 40, PLACES // 55])
MASKS = {  # rule, padding, seen (B or 1, Q, K), documents (B or 1, K)
    "causal": (causal_mask_function, None, lambda i, j: j <= i, None),
    "both sides": (bidirectional_mask_function, None, lambda i, j: j > -1, None),
    "padding": (causal_mask_function, LEFT, lambda i, j: (j <= i) & LEFT[:, None], None),
    "padding inside": (causal_mask_function, HOLES.expand(2, -1), lambda i, j: (j <= i) & HOLES, None),
    "packed": (
        and_masks(causal_mask_function, packed_sequence_mask_function(PACKS)), None,
        lambda i, j: (j <= i) & (PACKS[:, :, None] == PACKS[:, None]), PACKS,
    ),
    "packed, both sides": (
        packed_sequence_mask_function(PACKS), None, lambda i, j: PACKS[:, :, None] == PACKS[:, None], PACKS,
    ),
    "window": (sliding_window_causal_mask_function(23), None, lambda i, j: (j <= i) & (j > i - 23), None),
}  # fmt: skip


def of_mask(name, room=0, queries=LENGTH):
    """(distances, seen (B, Q, K), sinks (B, K)) by name. room: a static cache, which has more keys than it holds."""
    rule, padding, sees, documents = MASKS[name]
    batch = 1 if padding is None and documents is None else 2
    i, j = PLACES[:, None], PLACES[None]
    seen = (sees(i, j) & torch.ones(batch, LENGTH, LENGTH, dtype=torch.bool))[:, LENGTH - queries :]
    token = torch.ones(batch, LENGTH, dtype=torch.bool) if padding is None else padding
    documents = torch.zeros(batch, LENGTH) if documents is None else documents
    sink = torch.zeros(batch, LENGTH, dtype=torch.bool)
    for b in range(batch):
        for each in documents[b].unique():
            sink[b, ((documents[b] == each) & token[b]).nonzero()[:SINKS]] = True
    offset = LENGTH - queries
    distances = alibi_distances(
        batch,
        queries,
        LENGTH + room,
        q_offset=torch.tensor(offset) if room else offset,
        mask_function=rule,
        attention_mask=padding,
        config=SimpleNamespace(alibi_sinks=SINKS),
    )
    return distances, seen, sink


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@torch.no_grad()
def test_every_mask(mask: str, interleaved: bool) -> None:
    distances, seen, sink = of_mask(mask)
    assert isinstance(distances, Compact)
    q, k, v = qkv(batch=len(seen))
    sees = seen.any(-1)
    for offsets, width in ((None, ROTATED), (OFFSETS, ROTATED), (None, 4)):
        oracle = partial(by_loops, q, k, v, seen, sink, interleaved, width, offsets=offsets)
        exact = oracle()
        for given, (dtype, tolerance) in product((distances, distances.entries()), TOLERANCE.items()):
            out = ours(q, k, v, given, dtype, interleaved, width, offsets=offsets)
            assert (out - exact)[sees].abs().max() <= tolerance
        assert wrong(exact, oracle, max(TOLERANCE.values()) if width == ROTATED else 1e-3)
    half = by_loops(q, k, v, seen, sink, not interleaved)
    assert (half - by_loops(q, k, v, seen, sink, interleaved)).abs().max() > 1e-2


@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_soft_caps_learned_sinks_and_weights_in_the_open(mask: str) -> None:
    distances, seen, sink = of_mask(mask)
    q, k, v = qkv(batch=len(seen))
    s_aux = torch.tensor([1.0, -2.0, 3.0, 0.0])
    for options in (dict(softcap=1.5), dict(s_aux=s_aux), dict(keeps=True)):
        oracle = partial(by_loops, q, k, v, seen, sink, **{x: y for x, y in options.items() if x != "keeps"})
        for given in (distances, distances.entries()):
            assert (ours(q, k, v, given, **options) - oracle())[seen.any(-1)].abs().max() <= 1e-12
        assert wrong(oracle(), oracle, 1e-3)


@pytest.mark.parametrize("mask", ["causal", "both sides", "padding", "padding inside", "packed", "window"])
@torch.no_grad()
def test_a_cache(mask: str) -> None:
    """The last queries alone, of all sizes; and beside a static cache, which has room for more."""
    _, seen, sink = of_mask(mask)
    q, k, v = qkv(batch=len(seen))
    exact = by_loops(q, k, v, seen, sink)
    for queries in (1, 2, 5, 16, 17, 50, 68, LENGTH):
        distances, seen, _ = of_mask(mask, queries=queries)
        out = ours(q[:, :, -queries:], k, v, distances)
        assert (out - exact[:, -queries:])[seen.any(-1)].abs().max() <= 1e-12, queries
        if mask in ("causal", "padding"):
            rotated = turn(q, PLACES), turn(k, PLACES)
            q_, k_ = rotated[0][:, :, -queries:], torch.nn.functional.pad(rotated[1], (0, 0, 0, 9), value=5.0)
            v_ = torch.nn.functional.pad(v, (0, 0, 0, 9), value=5.0)
            module = SimpleNamespace(
                alibi_slopes=SLOPES, training=False, config=SimpleNamespace(alibi_sink_distance=LIMIT)
            )
            module.alibi_rotation = SimpleNamespace(inv_freq=FREQUENCIES), False
            out = alibi_attention(module, q_, k_, v_, of_mask(mask, 9, queries)[0])[0]
            assert (out - exact[:, -queries:])[seen.any(-1)].abs().max() <= 1e-12, queries


@torch.no_grad()
def test_chunks_of_a_prefill_equal_the_rows_of_the_whole() -> None:
    q, k, v = qkv()
    exact, config = by_loops(q, k, v, *of_mask("causal")[1:]), SimpleNamespace(alibi_sinks=SINKS)
    for sizes in ((1, 16, 30, 23), (2, 1, 1, 66), (69, 1), (10, 1, 59)):
        end, pieces = 0, []
        for size in sizes:
            first, end = end, end + size
            distances = alibi_distances(1, size, end, q_offset=first, config=config)
            pieces.append(ours(q[:, :, first:end], k[:, :, :end], v[:, :, :end], distances))
        assert (torch.cat(pieces, 1) - exact).abs().max() <= 1e-12, sizes


@torch.no_grad()
def test_within_the_distance_nothing_changes_to_the_bit() -> None:
    q, k, v = qkv()
    for mask in MASKS:
        distances, seen, _ = of_mask(mask)
        for dtype in TOLERANCE:
            q, k, v = qkv(batch=len(seen))
            for given in (distances, distances.entries()):
                pair = [ours(q, k, v, given, dtype, limit=limit) for limit in (LENGTH, 10**6)]
                assert torch.equal(*pair)


@torch.no_grad()
def test_far_from_the_sinks_angles_are_exact() -> None:
    """100,000 tokens away: an angle in float32 is off by thousandths."""
    keys = 100_000
    q, k, v = qkv(3, keys)
    seen = torch.arange(keys) <= torch.arange(keys - 3, keys)[:, None]
    oracle = partial(by_loops, q, k, v, seen[None], (torch.arange(keys) < SINKS)[None])
    for given in (alibi_distances(1, 3, keys, q_offset=keys - 3, config=SimpleNamespace(alibi_sinks=SINKS)),):
        assert (ours(q, k, v, given) - oracle()).abs().max() <= 1e-10
    assert wrong(oracle(), oracle, 1e-4)


@pytest.mark.parametrize("mask", ["causal", "both sides", "packed", "window", "padding inside"])
@pytest.mark.parametrize("learned", [True, False], ids=["learned", "given"])
def test_gradients_by_queries_keys_values_slopes_and_offsets(mask: str, learned: bool) -> None:
    distances, seen, sink = of_mask(mask)
    exacts = []

    def gradients(compute, dtype=torch.float64):
        q, k, v = qkv(batch=len(seen), requires_grad=True)
        exact = torch.promote_types(dtype, torch.float32)
        values = [torch.tensor(x, dtype=exact, requires_grad=learned) for x in (SLOPES, OFFSETS)]
        given = values if learned else (SLOPES, OFFSETS)
        out = compute(q, k, v, slopes=given[0], offsets=given[1])
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        total = (out.double() * weight)[seen.any(-1)].sum()
        return [
            x.double()
            for x in (out.detach(), *torch.autograd.grad(total, (q, k, v, *values) if learned else (q, k, v)))
        ]

    oracle = lambda q, k, v, **options: by_loops(q, k, v, seen, sink, **options)  # noqa: E731
    exacts = gradients(oracle)
    for dtype, limit in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 8e-2)):
        for given in (distances, distances.entries()):
            found = gradients(partial(ours, distances=given, dtype=dtype), dtype)
            for part, expected in zip(found[1:], exacts[1:], strict=True):
                assert (part - expected).abs().max() <= limit * expected.abs().max(), dtype
    for change in (dict(limit=10**6), dict(limit=LIMIT + 1), dict(sign=-1)):
        for part, expected in zip(gradients(partial(oracle, **change)), exacts, strict=True):
            assert (part - expected).abs().max() > 1e-4 * expected.abs().max()


@torch.no_grad()
def test_dropout_takes_the_way_without_the_kernel_that_gives_log_sums_away(monkeypatch) -> None:
    q, k, v = qkv()
    for mask in ("causal", "both sides"):
        distances, seen, sink = of_mask(mask)
        with monkeypatch.context() as patch:
            patch.setattr(alibi_scores, "can_attend_beside", lambda *_: False)  # as on a GPU
            assert (ours(q, k, v, distances) - by_loops(q, k, v, seen, sink)).abs().max() <= 1e-12
