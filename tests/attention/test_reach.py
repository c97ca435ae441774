"""Keys are left out only where a bound from the data proves that they do not matter: ordinary and adversarial inputs."""

from types import SimpleNamespace

import pytest
import torch

from alibi_cli.runtime import alibi_attention as runtime
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention

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
    """Far values so large that a weight of e^-44 shows."""
    q, k, v = ordinary(generator)
    v[:, :, :200] *= 1e20
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
    """Queries whose own value is nought: all of what they see comes from others."""
    q, k, v = ordinary(generator)
    v[:, :, 700:] = 0.0
    return q, k, v


INPUTS = [ordinary, needle, heavy_values, own_key_repels, shifted, no_own_value]


def attend(q, k, v, distances, slopes=SLOPES, **options):
    layer = SimpleNamespace(alibi_slopes=list(slopes), training=False)
    return alibi_attention(layer, q, k, v, distances, **options)[0]


def excess(q, k, v, causal=True, **options):
    """Largest difference to the computation over all keys, in units of what the values that a query sees weigh together."""
    q, k, v = (tensor.double() for tensor in (q, k, v))
    queries, keys = q.shape[2], k.shape[2]
    distances = Compact.of(queries, keys, causal, "cpu")
    exact = attend(q, k, v, distances.entries(), **options)
    weight = attend(q, k, v.abs(), distances.entries(), **options).amax(-1, keepdim=True)
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


def keys_read(monkeypatch, inputs, **options):
    """Share of the keys of a causal computation that are read."""
    q, k, v = inputs(torch.Generator().manual_seed(4))
    read = []
    attend_ = runtime._attend
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(
            runtime, "_attend", lambda *a: (read.append(a[0][..., 0].numel() * a[1].shape[2]), attend_(*a))[1]
        )
        attend(q, k, v, Compact.of(LENGTH, LENGTH, True, "cpu"), **options)
    return sum(read) / (HEADS * LENGTH * (LENGTH + runtime.BLOCK) / 2)


def test_keys_are_left_out_where_they_can_be_and_only_there(monkeypatch) -> None:
    assert keys_read(monkeypatch, ordinary) < 0.6
    assert keys_read(monkeypatch, shifted) < 0.6
    assert keys_read(monkeypatch, ordinary, slopes=[0.0] * HEADS) > 0.9
    assert keys_read(monkeypatch, no_own_value) > 0.7
    nothing_known = lambda generator: [torch.full((1, HEADS, LENGTH, WIDTH), torch.nan)] * 3  # noqa: E731
    assert keys_read(monkeypatch, nothing_known) > 0.9


@pytest.mark.parametrize("inputs", [needle, heavy_values, own_key_repels])
@torch.no_grad()
def test_a_guessed_window_fails(inputs, monkeypatch) -> None:
    """The reach of ordinary inputs, applied to adversarial ones, is caught by the comparison above."""
    certified = runtime.reaches
    usual = ordinary(torch.Generator().manual_seed(2))
    monkeypatch.setattr(runtime, "reaches", lambda q, k, v, *rest: certified(*(t.to(q) for t in usual), *rest))
    ours, whole = excess(*inputs(torch.Generator().manual_seed(2)))
    assert ours > max(2e-6, 1.5 * whole)


def test_training_reads_every_key() -> None:
    q, k, v = (t.requires_grad_() for t in ordinary(torch.Generator().manual_seed(5)))
    distances = Compact.of(LENGTH, LENGTH, True, "cpu")
    ours, whole = (
        torch.autograd.grad(attend(q, k, v, d).square().sum(), (q, k, v)) for d in (distances, distances.entries())
    )
    for a, b in zip(ours, whole, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
