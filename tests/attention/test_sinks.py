"""Attention sinks and offsets against a loop over heads and queries in float64: every path of the attention function, and its gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention, alibi_distances
from tests.models import sample_tokens, tiny_model

SLOPES, OFFSETS, SINKS = [0.5, 0.03, 2.0, 0.004], [0.0, 20.0, 3.5, 100.0], 3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def by_loops(
    q, k, v, rows, slopes=SLOPES, offsets=None, sinks=SINKS, causal=True, softcap=None, s_aux=None, scaling=None
):
    """(B, rows, H, D) float64: some queries, which are among the last Q of K positions, one head and query at a time."""
    q, k, v = (tensor.detach().double().numpy() for tensor in (q, k, v))
    past, j = k.shape[2] - q.shape[2], np.arange(k.shape[2])
    out = np.zeros((q.shape[0], len(rows), q.shape[1], v.shape[3]))
    for b, nth, h in np.ndindex(*out.shape[:3]):
        i, g = rows[nth] + past, h * k.shape[1] // q.shape[1]
        scores = k[b, g] @ q[b, h, rows[nth]] * (q.shape[3] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        bias = slopes[h] * np.maximum(0, np.abs(i - j) - (0.0 if offsets is None else offsets[h]))
        bias[:sinks] = 0
        scores = np.where((j <= i) | (not causal), scores - bias, -np.inf)
        own = -np.inf if s_aux is None else s_aux.double().numpy()[h]
        top = max(scores.max(), own)
        weights = np.exp(scores - top)
        out[b, nth, h] = weights / (weights.sum() + np.exp(own - top)) @ v[b, g]
    return torch.from_numpy(out)


def qkv(queries, keys=None, heads=4, groups=4, width=8, dtype=torch.float32, batch=1, **options):
    generator = torch.Generator().manual_seed(11)
    shapes = (heads, queries), *[(groups, keys or queries)] * 2
    made = [torch.randn(batch, *shape, width, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_(options.get("requires_grad", False)) for tensor in made]


def layer(slopes=SLOPES, offsets=None, **settings):
    return SimpleNamespace(alibi_slopes=slopes, alibi_offsets=offsets, training=False, **settings)


def distances_of(queries, keys=None, causal=True, sinks=SINKS):
    return Compact.of(queries, keys or queries, causal, "cpu", sinks=sinks)


def noticed(expected, q, k, v, rows, tolerance, offsets=None, **options):
    """Whether what is wrong would be seen: no sinks, one too many, steeper slopes, no offsets."""
    wrong = [dict(sinks=0), dict(sinks=SINKS + 1), dict(slopes=[1.1 * m for m in SLOPES])]
    wrong += [dict(offsets=None)] if offsets is not None else []
    others = [by_loops(q, k, v, rows, **{"offsets": offsets, **options, **change}) for change in wrong]
    return all((other - expected).abs().max() > tolerance for other in others)


@pytest.mark.parametrize("offsets", [None, OFFSETS], ids=["", "offsets"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_forward(dtype: torch.dtype, causal: bool, offsets) -> None:
    for queries, keys in ((600, 600), (300, 700), (9, 9), (1, 40), (1, 2), (2, 2)):
        for groups in (4, 2, 1):
            q, k, v = qkv(queries, keys, groups=groups, dtype=dtype)
            rows = sorted({0, queries // 3, queries - 1})
            options = dict(causal=causal, offsets=offsets)
            expected = by_loops(q, k, v, rows, **options)
            distances = distances_of(queries, keys, causal)
            for given in (distances, distances.entries()):
                out = alibi_attention(layer(offsets=offsets), q, k, v, given)[0][:, rows]
                assert out.dtype == dtype and (out - expected).abs().max() <= TOLERANCE[dtype], (queries, keys, groups)
            if keys > 40:
                assert noticed(expected, q, k, v, rows, TOLERANCE[dtype], **options)


@torch.no_grad()
def test_soft_caps_learned_sinks_and_scales() -> None:
    q, k, v = qkv(600, groups=2)
    rows = [0, 2, 5, 255, 256, 599]
    for options in (dict(softcap=1.5), dict(s_aux=torch.tensor([1.0, -2.0, 3.0, 0.0])), dict(scaling=1.0)):
        for offsets in (None, OFFSETS):
            expected = by_loops(q, k, v, rows, offsets=offsets, **options)
            for given in (distances_of(600), distances_of(600).entries()):
                out = alibi_attention(layer(offsets=offsets), q, k, v, given, **options)[0][:, rows]
                assert (out - expected).abs().max() <= 5e-6
            assert (by_loops(q, k, v, rows, offsets=offsets) - expected).abs().max() > 1e-2  # without the option
            assert noticed(expected, q, k, v, rows, 5e-6, offsets, **options)


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_long_distances(dtype: torch.dtype) -> None:
    for queries in (1, 5, 600):
        q, k, v = qkv(queries, 16_384, groups=1, dtype=dtype)
        k[:, :, SINKS : SINKS + 1] = 3 * q[:, :1, -1:]  # a key that would be seen if it were a sink as well
        rows = sorted({0, queries // 2, queries - 1})
        for offsets in (None, [0.0, 500.0, 15_000.0, 9000.0]):
            expected = by_loops(q, k, v, rows, offsets=offsets)
            for given in (distances_of(queries, 16_384), distances_of(queries, 16_384).entries()):
                out = alibi_attention(layer(offsets=offsets), q, k, v, given)[0][:, rows]
                assert (out - expected).abs().max() <= TOLERANCE[dtype], (queries, offsets)
            assert noticed(expected, q, k, v, rows, TOLERANCE[dtype], offsets)


@torch.no_grad()
def test_a_sink_farther_away_than_float16_can_tell_stays_a_sink() -> None:
    q, k, v = qkv(1, 50_000, dtype=torch.float16)
    for given in (distances_of(1, 50_000), distances_of(1, 50_000).entries()):
        out = alibi_attention(layer(), q, k, v, given)[0]
        assert (out - by_loops(q, k, v, [0])).abs().max() <= TOLERANCE[torch.float16]
    assert noticed(by_loops(q, k, v, [0]), q, k, v, [0], TOLERANCE[torch.float16])  # 2 * 50,000 is beyond 65,504


def gradients(dtype, causal, dense=None, sinks=SINKS, factor=1.0, learned=True, has_offsets=True, **options):
    """[output, gradients by query, key, value, slopes and offsets], as float64. dense: by entries; None: from the formula."""
    q, k, v = qkv(600, groups=2, dtype=dtype, requires_grad=True)
    exact = torch.promote_types(dtype, torch.float32)
    slopes, offsets = (torch.tensor(values, dtype=exact, requires_grad=learned) for values in (SLOPES, OFFSETS))
    if dense is None:
        i, j = torch.arange(600)[:, None], torch.arange(600)
        ramp = torch.relu((i - j).abs() - (offsets[:, None, None] if has_offsets else 0))
        bias = torch.where(j < sinks, 0, -factor * slopes[:, None, None] * ramp)
        scores = q @ k.repeat_interleave(2, 1).mT / 8**0.5
        scores = (scores + bias).masked_fill((j > i) & causal, -torch.inf)
        out = (scores.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
    else:
        distances = distances_of(600, causal=causal, sinks=sinks)
        values = (slopes, offsets) if learned else (SLOPES, OFFSETS)
        out = alibi_attention(layer(*values), q, k, v, distances.entries() if dense else distances, **options)[0]
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    by = (q, k, v, slopes, offsets) if learned else (q, k, v)
    found = torch.autograd.grad((out.double() * weight).sum(), by, allow_unused=not has_offsets)
    return [part.double() for part in (out.detach(), *found) if part is not None]


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "given"])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_by_queries_keys_values_slopes_and_offsets(causal: bool, learned: bool) -> None:
    exact = gradients(torch.float64, causal, learned=learned)
    assert len(exact) == (6 if learned else 4)
    for dtype, limit in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        for dense in (True, False):
            for part, expected in zip(gradients(dtype, causal, dense, learned=learned), exact, strict=True):
                assert (part - expected).abs().max() <= limit * expected.abs().max(), (dtype, dense)
    for change in (dict(sinks=0), dict(sinks=SINKS + 1), dict(factor=1.1), dict(has_offsets=False)):
        for part, expected in zip(gradients(torch.float64, causal, learned=learned, **change), exact, strict=False):
            assert (part - expected).abs().max() > 1e-3 * expected.abs().max(), change


def test_the_gradient_by_an_offset_is_that_of_a_greater_one() -> None:
    """At a whole number, as at 0, from which offsets are learned, the bias has an edge: an offset below 0 would be another thing."""
    q, k, v = qkv(60, dtype=torch.float64)
    make = (lambda: distances_of(60)), (lambda: distances_of(60).entries())

    def loss(offsets, distances):
        return alibi_attention(layer(torch.tensor(SLOPES), offsets), q, k, v, distances)[0].pow(3).sum()

    for distances in make:
        offsets, step = torch.tensor([0.0, 20.0, 3.0, 0.0], dtype=torch.float64, requires_grad=True), 1e-6
        (gradient,) = torch.autograd.grad(loss(offsets, distances()), offsets)
        for head in range(4):
            more = offsets.detach() + step * torch.nn.functional.one_hot(torch.tensor(head), 4)
            quotient = (loss(more, distances()) - loss(offsets, distances())) / step
            assert abs(quotient - gradient[head]) <= 1e-4 * (1 + gradient[head].abs()) and gradient[head].abs() > 1e-3


def test_gradients_where_weights_are_computed_in_the_open() -> None:
    """A soft cap that caps nothing leads to the scores and not to the kernel; so do kept weights."""
    exact = gradients(torch.float64, True, learned=False)
    for part, expected in zip(gradients(torch.float64, True, False, learned=False, softcap=1e6), exact, strict=True):
        assert (part - expected).abs().max() <= 1e-8 * expected.abs().max()
    q, k, v = qkv(30, dtype=torch.float64)
    out, weights = alibi_attention(layer(alibi_keeps_weights=True), q, k, v, distances_of(30))
    assert ((weights @ v).transpose(1, 2) - out).abs().max() <= 1e-14
    assert (out - by_loops(q, k, v, range(30))).abs().max() <= 1e-13


@torch.no_grad()
def test_dropout_leaves_each_weight_or_takes_it_away() -> None:
    """The values are one-hot, so that the output is the weights."""
    length, p = 300, 0.25
    q, k, _ = qkv(length, width=length)
    eye = torch.eye(length).expand(1, 4, length, length)
    for groups in (slice(None), slice(0, 1)):
        torch.manual_seed(0)
        training = layer()
        training.training = True
        out = alibi_attention(training, q, k[:, groups], eye[:, groups], distances_of(length), dropout=p)[0]
        weights = by_loops(q, k[:, groups], eye[:, groups], range(length)).float() / (1 - p)  # (B, Q, H, K)
        kept = out > 0
        assert (out - weights)[kept].abs().max() <= 1e-5
        seen = weights > 1e-6
        assert abs(kept[seen].float().mean().item() - (1 - p)) < 0.02
        assert abs(kept[:, 20:, :, :SINKS].float().mean().item() - (1 - p)) < 0.03


@pytest.mark.parametrize("offsets", [None, OFFSETS], ids=["", "offsets"])
@torch.no_grad()
def test_chunks_of_a_prefill_equal_the_rows_of_the_whole(offsets) -> None:
    config = SimpleNamespace(alibi_sinks=SINKS)
    padding = torch.ones(2, 700, dtype=torch.bool)
    padding[1, :40] = False
    for mask in (None, padding):
        q, k, v = qkv(700, groups=2, batch=2)
        whole = alibi_attention(
            layer(offsets=offsets), q, k, v, alibi_distances(2, 700, 700, attention_mask=mask, config=config)
        )[0]
        for sizes in ((1, 256, 300, 143), (2, 1, 1, 696), (699, 1), (40, 257, 403)):
            end, pieces = 0, []
            for size in sizes:
                first, end = end, end + size
                seen = None if mask is None else mask[:, :end]
                distances = alibi_distances(2, size, end, q_offset=first, attention_mask=seen, config=config)
                piece = q[:, :, first:end], k[:, :, :end], v[:, :, :end]
                pieces.append(alibi_attention(layer(offsets=offsets), *piece, distances)[0])
            pieces = torch.cat(pieces, 1)
            difference = (pieces - whole).abs()
            assert max(difference[0].max(), difference[1, 40:].max()) <= 2e-6, sizes
        assert (
            whole[0, 100:] - alibi_attention(layer(), q, k, v, distances_of(700, sinks=0))[0][0, 100:]
        ).abs().max() > 1e-2


@pytest.mark.parametrize(("queries", "keys"), [(1, 500), (600, 600), (5, 9)])
@torch.no_grad()
def test_the_bias_that_layers_share_stays_as_it_was(queries: int, keys: int) -> None:
    q, k, v = qkv(queries, keys)
    padding = torch.ones(1, keys, dtype=torch.bool)
    padding[0, :3] = False
    for mask in (None, padding):
        make = lambda mask=mask: alibi_distances(  # noqa: E731
            1, queries, keys, q_offset=keys - queries, attention_mask=mask, config=SimpleNamespace(alibi_sinks=SINKS)
        )
        shared, outputs = make(), []
        for slopes, offsets in (
            (SLOPES, None),
            (SLOPES, None),
            (SLOPES, OFFSETS),
            (SLOPES, None),
            (SLOPES[::-1], None),
        ):
            outputs.append(alibi_attention(layer(slopes, offsets), q, k, v, shared)[0])
            assert torch.equal(outputs[-1], alibi_attention(layer(slopes, offsets), q, k, v, make())[0])
        assert not torch.equal(outputs[1], outputs[2]) and not torch.equal(outputs[3], outputs[4])


def test_autocast() -> None:
    exact = gradients(torch.float64, True, learned=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(torch.float32, True, False, learned=False)
        q, k, v = qkv(600)
        assert alibi_attention(layer(), q, k, v, distances_of(600))[0].dtype == torch.bfloat16  # as without sinks
        assert alibi_attention(layer(), q, k, v, distances_of(600, sinks=0))[0].dtype == torch.bfloat16
    for part, expected in zip(found, exact, strict=True):
        assert (part - expected).abs().max() <= 5e-2 * expected.abs().max()
    learned = gradients(torch.float64, True)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(torch.float32, True, False)
    for part, expected in zip(found, learned, strict=True):
        assert (part - expected).abs().max() <= 5e-2 * expected.abs().max()


@pytest.mark.parametrize("training", [False, True], ids=["forward", "backward"])
def test_memory_is_linear_in_the_length(training: bool) -> None:
    for offsets in (None, OFFSETS):
        peaks = []
        for length in (1024, 2048, 4096):
            q, k, v = qkv(length, requires_grad=training)

            def run(q=q, k=k, v=v, length=length, offsets=offsets):
                distances = alibi_distances(1, length, length, config=SimpleNamespace(alibi_sinks=SINKS))
                out = alibi_attention(layer(offsets=offsets), q, k, v, distances)[0]
                return torch.autograd.grad(out.sum(), (q, k, v)) if training else out

            peaks.append(peak_of_allocations(run))
        assert peaks[2] <= 4.5 * peaks[0] and peaks[2] < 4 * 4096 * 4096 * 4 / 40


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", dict(policy="add", sinks=SINKS, offsets=[3.0] * 6)),
        ("llama", dict(sinks=SINKS)),
        ("gptj", dict(policy="add", sinks=SINKS)),
    ],
)
def test_compiled_equals_eager(family: str, settings: dict) -> None:
    model, tokens = tiny_model(family), sample_tokens(2, 30)
    apply_alibi(model, 64, **settings)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
        assert (compiled(input_ids=tokens, use_cache=False).logits - expected).abs().max() <= 1e-12
