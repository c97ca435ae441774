"""Keys are left out only where a bound from the data proves that they do not matter: ordinary and adversarial inputs."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from alibi_cli.runtime import alibi_blocks as runtime
from alibi_cli.runtime import alibi_reach
from alibi_cli.runtime.alibi_attention import alibi_attention, alibi_bias
from alibi_cli.runtime.alibi_distances import BLOCK, Compact

LENGTH, HEADS, WIDTH = 1500, 6, 16
SLOPES = [0.5, 0.5, 0.0, 0.05, 16.0, 0.2]


def ordinary(generator):
    return [torch.randn(1, HEADS, LENGTH, WIDTH, generator=generator) for _ in range(3)]


def needle(generator):
    """One far key that every query wants, by just about as much as the bias of the head with slope 0.05 takes away."""
    q, k, v = ordinary(generator)
    q[..., 0] = 8.0
    k[:, :, 3, 0] = 0.05 * 1200 / 8 * WIDTH**0.5
    return q, k, v


def heavy_values(generator):
    """Far values so large that a weight of e^-33 shows."""
    q, k, v = ordinary(generator)
    v[:, :, :200] *= 1e15
    return q, k, v


def own_key_repels(generator):
    """Every query dislikes its own key and its neighbours, so that far keys count for more."""
    q, k, v = ordinary(generator)
    q = 2 + 0.1 * q
    k[:, :, 600:] = -4 * q[:, :, 600:]
    return q, k, v


def shifted(generator):
    """A large vector common to all keys, which changes no result and must not keep all keys either."""
    q, k, v = ordinary(generator)
    return q, k + 30.0, v


def no_own_value(generator):
    """Queries whose own value is zero: all of what they see comes from others."""
    q, k, v = ordinary(generator)
    v[:, :, 700:] = 0.0
    return q, k, v


INPUTS = [ordinary, needle, heavy_values, own_key_repels, shifted, no_own_value]
OFFSETS = [0.0, 100.0, 0.0, 30.0, 700.0, 2.5]
SETTINGS = {  # beside replace: what policy add and calibration bring
    "offsets": dict(offsets=OFFSETS),
    "sinks": dict(sinks=4),
    "rotated": dict(rotated=True),
    "all": dict(offsets=OFFSETS, sinks=4, rotated=True),
}


def rotate(q, k):
    """As policy add leaves them: turned by a real rotary embedding."""
    width, keys = q.shape[-1], k.shape[2]
    config = LlamaConfig(hidden_size=width, num_attention_heads=1, head_dim=width, max_position_embeddings=keys)
    place = torch.arange(keys)[None]
    cos, sin = LlamaRotaryEmbedding(config)(k, place)
    of_queries = [part[:, -q.shape[2] :] for part in (cos, sin)]
    return apply_rotary_pos_emb(q, q, *of_queries)[0], apply_rotary_pos_emb(k, k, cos, sin)[0]


def attend(q, k, v, distances, slopes=SLOPES, offsets=None, **options):
    layer = SimpleNamespace(alibi_slopes=list(slopes), alibi_offsets=offsets, training=False)
    return alibi_attention(layer, q, k, v, distances, **options)[0]


def excess(q, k, v, causal=True, sinks=0, rotated=False, **options):
    """Largest difference to the computation over all keys, in units of what the values that a query sees weigh together."""
    q, k = rotate(q, k) if rotated else (q, k)
    q, k, v = (tensor.double() for tensor in (q, k, v))
    queries, keys = q.shape[2], k.shape[2]
    distances = Compact.of(queries, keys, causal, "cpu", sinks=sinks)
    exact, weights = attend(q, k, torch.cat([v, v.abs()], -1), distances.entries(), **options).chunk(2, -1)
    weight = weights.amax(-1, keepdim=True)
    found = attend(q.float(), k.float(), v.float(), distances, **options)
    whole = attend(q.float(), k.float(), v.float(), distances.entries(), **options)
    return [((out - exact).abs() / weight.clamp_min(1e-9)).max().item() for out in (found, whole)]


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_leaving_keys_out_changes_nothing_but_rounding(inputs, causal: bool) -> None:
    q, k, v = inputs(torch.Generator().manual_seed(2))
    for queries in (LENGTH, 300):
        ours, whole = excess(q[:, :, -queries:], k, v, causal)
        assert ours <= max(2e-6, 1.5 * whole), f"{queries} queries"


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_nor_with_offsets_sinks_or_rotations(inputs, setting: str) -> None:
    q, k, v = inputs(torch.Generator().manual_seed(2))
    for causal, queries in ((True, LENGTH), (False, 300), (True, 300)):
        ours, whole = excess(q[:, :, -queries:], k, v, causal, **SETTINGS[setting])
        assert ours <= max(2e-6, 1.5 * whole), f"{queries} queries"


@torch.no_grad()
def test_soft_caps_scales_and_low_precision() -> None:
    for inputs in (ordinary, needle):
        q, k, v = inputs(torch.Generator().manual_seed(3))
        q = q[:, :, -600:]
        for options in ({"softcap": 20.0}, {"scaling": 1.0}, {"scaling": -0.3}, {"s_aux": torch.randn(HEADS)}):
            ours, whole = excess(q, k, v, **options)
            assert ours <= max(2e-6, 1.5 * whole), options
        low = [tensor.bfloat16() for tensor in (q, k, v)]
        distances = Compact.of(600, LENGTH, True, "cpu")
        difference = attend(*low, distances).double() - attend(*low, distances.entries()).double()
        assert difference.abs().max() <= 2**-6  # two roundings of an output of size 2 .. 4


def tuned(generator, kind: str):
    """(query, key, value, slopes): scores of some size, and slopes with which the bound ends among the keys."""
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (150, 331, 331))
    size = 10 ** float(torch.empty(()).uniform_(-1, 2, generator=generator))
    if kind == "ordinary":
        q, k, score = size * q, size * k, 8**0.5 * size**2
    else:  # all along one direction, or along the diagonals of the box
        along = torch.randn(2, 3, 1, 8, generator=generator)
        along = along / along.norm(dim=-1, keepdim=True) if kind == "needle" else along.sign() / 8**0.5
        q, k, score = size * along.expand_as(q), size * along * k[..., :1], 4 * size**2
        k[:, :, 3] = 4 * size * along[:, :, 0]
    v = v * 10 ** (3 * torch.randn(2, 3, 331, 1, generator=generator))
    return q, k, v, [score / 100, score / 50, score / 20]


def weight_left_out(q, k, v, slopes, offsets=None, sinks=0, rotated=False):
    """ln of what is left out of a query's sum, in units of the rounding of its own share: at most zero. Every query is a block."""
    q, k = rotate(q, k) if rotated else (q, k)
    queries, keys = q.shape[2], k.shape[2]
    line = alibi_bias(Compact.of(queries, keys, False, "cpu").line, slopes, q.dtype, offsets)
    reach = torch.tensor(alibi_reach.reaches(q, k, v, line, 1, 1.0, 0.0, None, None)).flip(0).T  # (H, Q)
    place = torch.arange(keys - queries, keys)
    distance = (place[:, None] - torch.arange(keys)).abs()
    ramp = distance - torch.as_tensor(offsets or [0.0] * len(slopes)).double()[:, None, None]  # (H, Q, K)
    scores = q.double() @ k.double().mT - ramp.clamp_min(0) * torch.tensor(slopes).double()[:, None, None]
    own = (q.double() * k.double()[:, :, -queries:]).sum(-1, keepdim=True)
    size = v.double().norm(dim=-1).log()
    more = scores - own + size[:, :, None] - size[:, :, -queries:, None]
    left_out = (distance > reach[..., None]) & (torch.arange(keys) >= sinks)
    return more.masked_fill(~left_out, -torch.inf).logsumexp(-1).max().item() - math.log(2**-24)


SMALL = {
    "plain": dict(),
    "offsets": dict(offsets=[0.0, 40.0, 7.5]),
    "sinks": dict(sinks=3),
    "all": dict(offsets=[3.0, 0.0, 90.0], sinks=3, rotated=True),
}


@pytest.mark.parametrize("kind", ["ordinary", "needle", "diagonal"])
@pytest.mark.parametrize("setting", SMALL)
def test_what_is_left_out_is_less_than_rounding(kind: str, setting: str) -> None:
    generator, found, settings = torch.Generator().manual_seed(7), [], SMALL[setting]
    for _ in range(20):
        q, k, v, slopes = tuned(generator, kind)
        found.append(weight_left_out(q, k, v, slopes, **settings))
        shift = 1000 * torch.randn(2, 3, 1, 8, generator=generator)
        found.append(weight_left_out(q, k + shift, v, slopes, **settings))
        with torch.autocast("cpu", torch.bfloat16):
            found.append(weight_left_out(q, k, v, slopes, **settings))
    assert max(found) <= 0
    assert sum(math.isfinite(each) for each in found) >= (
        10 if settings.get("rotated") else 30
    )  # else nothing was left out


def tight(slope: float, score: float = 3.0, dtype=torch.float32):
    """One query dislikes its own key, and likes all others equally, on both sides: all that is left out weighs what the bound allows.

    The slopes are such that the bound ends among the keys.
    """
    q, k, v = torch.zeros(1, 1, 2001, 8), torch.zeros(1, 1, 2001, 8), torch.ones(1, 1, 2001, 1)
    q[..., 0], k[:, :, 1000, 0] = 1.0, -score
    return q.to(dtype), k.to(dtype), v.to(dtype), [slope]


def test_the_number_of_keys_that_are_left_out_is_counted_closely() -> None:
    """n = 2 sum exp(past) is what an endless sequence has on both sides: e^(-m (D + k)) <= e^(-m D) e^(-m k), for the first key that is
    left out, at D, and k more. With an offset, past(D + k) = past(D) - m k <= past(D) + past(k), for what is left out is beyond it."""
    for slope in (0.03, 0.1, 0.5):
        excess = weight_left_out(*tight(slope))
        assert -slope - 0.1 < excess <= 0
        for offset in (1.0, 17.5, 200.0):
            assert -20 < weight_left_out(*tight(slope), offsets=[offset]) <= 0
    # The bias is rounded to 16 bits, so that many distances have one bias; still less than the rounding of the result.
    for score in (3.0, 50.0, 300.0):
        assert weight_left_out(*tight(score / 500, score, torch.bfloat16)) <= math.log(2**-9 / 2**-24)


def test_autocast_does_not_round_the_bound() -> None:
    """A slope so small beside the scores that one distance more is far less than the rounding of a score to 16 bits."""
    q, k, v = torch.full((1, 1, 400, 64), 18.25), torch.zeros(1, 1, 2048, 64), torch.ones(1, 1, 2048, 1)
    k[:, :, :64] = 1.0
    slopes = [(q[0, 0, 0] @ k[0, 0, 0]).item() / distance for distance in range(1715, 1745)]
    with torch.autocast("cpu", torch.bfloat16):
        assert max(weight_left_out(q * x, k, v, [slope * x]) for x in (1.0, 4.3, 16.7) for slope in slopes) <= 0


TOO_LITTLE = {
    "half the sphere and the box": lambda source: source.replace("torch.minimum(sphere, box)", "torch.minimum(sphere, box) / 2"),
    "nothing for the own key": lambda source: source.replace(" - own", ""),
    "half the values": lambda source: source.replace("value.to(exact).norm(dim=-1).log()", "value.to(exact).norm(dim=-1).log() / 2"),
    "one side of the box": lambda source: source.replace("box = above + below", "box = above"),
    "one side of the keys": lambda source: source.replace("2 * past.exp()", "past.exp()"),
    "no margin": lambda source: source.replace("_of_rounding(past, keys)[:, None] + ", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", TOO_LITTLE)
@pytest.mark.parametrize("setting", SMALL)
def test_a_bound_that_is_too_little_is_noticed(what: str, setting: str, monkeypatch) -> None:
    source = inspect.getsource(alibi_reach)
    wrong = TOO_LITTLE[what](source)
    assert wrong != source
    changed: dict = {}
    exec(compile(wrong, "wrong", "exec"), changed)
    monkeypatch.setattr(alibi_reach, "reaches", changed["reaches"])
    generator = torch.Generator().manual_seed(7)
    inputs = [tuned(generator, kind) for kind in ("ordinary", "needle", "diagonal") for _ in range(20)]
    excesses = [weight_left_out(*each, **SMALL[setting]) for each in inputs]
    if what == "one side of the keys":  # a factor of 2
        excesses.append(weight_left_out(*tight(0.1)))
    assert max(excesses) > 0


def test_the_largest_of_each_dimension() -> None:
    for keys in (5, 32, 64, 331):
        vectors = torch.randn(2, 3, keys, 4, generator=torch.Generator().manual_seed(keys))
        assert torch.equal(alibi_reach._largest(vectors), vectors.amax(2))


def keys_read(monkeypatch, inputs, sinks=0, **options):
    """Share of the keys of a causal computation that are read."""
    q, k, v = inputs(torch.Generator().manual_seed(4))
    read = []
    attend_ = runtime.attend
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(runtime, "attend", lambda *a: (read.append(a[0][..., 0].numel() * a[1].shape[2]), attend_(*a))[1])
        attend(q, k, v, Compact.of(LENGTH, LENGTH, True, "cpu", sinks=sinks), **options)
    return sum(read) / (HEADS * LENGTH * (LENGTH + BLOCK) / 2)


def test_keys_are_left_out_where_they_can_be_and_only_there(monkeypatch) -> None:
    assert keys_read(monkeypatch, ordinary) < 0.6
    assert keys_read(monkeypatch, shifted) < 0.6
    assert keys_read(monkeypatch, ordinary, slopes=[0.0] * HEADS) > 0.9
    assert keys_read(monkeypatch, no_own_value) > 0.7
    assert keys_read(monkeypatch, ordinary, sinks=4) < 0.6
    assert keys_read(monkeypatch, ordinary) < keys_read(monkeypatch, ordinary, offsets=OFFSETS) < 0.85
    assert keys_read(monkeypatch, ordinary, offsets=[2000.0] * HEADS) > 0.9
    nothing_known = lambda generator: [torch.full((1, HEADS, LENGTH, WIDTH), torch.nan)] * 3  # noqa: E731
    assert keys_read(monkeypatch, nothing_known) > 0.9


def test_no_time_is_spent_on_heads_that_look_too_far_to_leave_anything_out(monkeypatch) -> None:
    calls, bound = [], alibi_reach._bound
    monkeypatch.setattr(alibi_reach, "_bound", lambda *a: (calls.append(1), bound(*a))[1])
    keys_read(monkeypatch, ordinary, offsets=[2000.0] * HEADS)
    assert not calls
    keys_read(monkeypatch, ordinary)
    assert calls


@pytest.mark.parametrize("inputs", [needle, heavy_values, own_key_repels])
@torch.no_grad()
def test_a_guessed_window_fails(inputs, monkeypatch) -> None:
    """The reach of ordinary inputs, applied to adversarial ones, is caught by the comparison above."""
    certified = runtime.reaches
    usual = ordinary(torch.Generator().manual_seed(2))
    monkeypatch.setattr(runtime, "reaches", lambda q, k, v, *rest: certified(*(t.to(q) for t in usual), *rest))
    for offsets in (None, [1.0] * HEADS):
        ours, whole = excess(*inputs(torch.Generator().manual_seed(2)), offsets=offsets)
        assert ours > max(2e-6, 1.5 * whole)


def test_training_reads_every_key() -> None:
    q, k, v = (t.requires_grad_() for t in ordinary(torch.Generator().manual_seed(5)))
    distances = Compact.of(LENGTH, LENGTH, True, "cpu")
    ours, whole = (
        torch.autograd.grad(attend(q, k, v, d).square().sum(), (q, k, v)) for d in (distances, distances.entries())
    )
    for a, b in zip(ours, whole, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
