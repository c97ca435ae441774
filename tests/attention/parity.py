"""What every attention backend must satisfy, against a float64 reference written here from the definition: loops over heads and queries
in numpy, no product code. A test calls `check(name)`; a backend registered anywhere passes through the same door."""

import math
from itertools import product

import numpy as np
import torch

from alibi_cli.attention.registry import AttentionBackend, build_attention, config_of


def slopes_for(heads: int) -> list[float]:
    """Press et al., section 3: 2^(-8/p), … for p heads, the rest from every other one of 2p heads."""
    p = 2 ** int(math.log2(heads))
    return ([2 ** (-8 * i / p) for i in range(1, p + 1)] + [2 ** (-4 * i / p) for i in range(1, 2 * p, 2)])[:heads]


SINKS = 3


def reference(query, key, value, slopes, causal, sinks=0):
    """(B, H, Q, D) float64; queries are the last Q of the K positions, the first `sinks` keys get no bias."""
    q, k, v = (tensor.detach().double().numpy() for tensor in (query, key, value))
    out = np.zeros(q.shape)
    past = k.shape[2] - q.shape[2]
    for b, h, i in np.ndindex(*q.shape[:3]):
        g = h // (q.shape[1] // k.shape[1])
        n = past + i + 1 if causal else k.shape[2]
        distance = np.where(np.arange(n) < sinks, 0, np.abs(past + i - np.arange(n)))
        scores = k[b, g, :n] @ q[b, h, i] / math.sqrt(q.shape[3]) - slopes[h] * distance
        weights = np.exp(scores - scores.max())
        out[b, h, i] = weights / weights.sum() @ v[b, g, :n]
    return torch.from_numpy(out)


def tensors(heads=6, groups=2, queries=9, keys=9, width=8, dtype=torch.float32, batch=2):
    generator = torch.Generator().manual_seed(7)
    shapes = ((batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def error(backend: AttentionBackend, causal=True, factor=1.0, sinks=0, more=0, **shape) -> float:
    """Largest absolute error of the output. Negative controls: `factor` on the slopes of the backend alone, and so many sinks `more`."""
    query, key, value = tensors(**shape)
    slopes = slopes_for(query.shape[1])
    out = backend(query, key, value, [factor * m for m in slopes], causal=causal, sinks=sinks + more)
    assert out.shape == query.shape and out.dtype == query.dtype
    return (out.double() - reference(query, key, value, slopes, causal, sinks)).abs().max().item()


def gradient_error(backend: AttentionBackend, causal=True, factor=1.0, sinks=0, more=0, **shape) -> float:
    """Largest difference between autograd in float64 and central differences of the numpy reference, for some entries of each input."""
    inputs = [tensor.requires_grad_() for tensor in tensors(dtype=torch.float64, **shape)]
    slopes = slopes_for(inputs[0].shape[1])
    weight = torch.linspace(-1, 1, inputs[0].numel(), dtype=torch.float64).reshape(inputs[0].shape)
    out = backend(*inputs, [factor * m for m in slopes], causal=causal, sinks=sinks + more)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    worst, step = 0.0, 1e-5
    for which, gradient in enumerate(gradients):
        for place in range(0, gradient.numel(), max(1, gradient.numel() // 12)):
            sums = []
            for sign in (1, -1):
                moved = [tensor.detach().clone() for tensor in inputs]
                moved[which].view(-1)[place] += sign * step
                sums.append((reference(*moved, slopes, causal, sinks) * weight).sum().item())
            numeric = (sums[0] - sums[1]) / (2 * step)
            worst = max(worst, abs(numeric - gradient.reshape(-1)[place].item()))
    return worst


def sides(name: str) -> list[bool]:
    return [True, False] if config_of(name).symmetric else [True]


def has_gradients(name: str) -> bool:
    return "cpu" not in config_of(name).no_gradients_on


def sinks_of(name: str) -> list[int]:
    return [0, SINKS] if config_of(name).takes_sinks else [0]


def check(name: str) -> None:
    """Forward, gradients, grouped queries, a cache, both sides, low precision, long distances; all with sinks as well."""
    backend = build_attention({"name": name})
    allowed = backend.config.tolerance
    for causal, sinks in product(sides(name), sinks_of(name)):
        for dtype, limit in allowed.items():
            for shape in (
                dict(),
                dict(heads=4, groups=4),  # no sharing
                dict(heads=5, groups=1, queries=1, keys=1),
                dict(queries=1, keys=13),  # one new token after a cache
                dict(queries=4, keys=13),  # a chunk after a cache
                dict(heads=12, groups=4, queries=61, keys=61, width=16),
            ):
                found = error(backend, causal, sinks=sinks, dtype=getattr(torch, dtype), **shape)
                assert found <= limit, f"{name}, {dtype}, causal={causal}, sinks={sinks}, {shape}: {found}"
        if has_gradients(name):
            assert gradient_error(backend, causal, sinks=sinks, queries=5, keys=7, width=4) <= 1e-7
    for sinks in sinks_of(name):
        for dtype, limit in allowed.items():  # far more keys than the last queries' steep heads see
            shape = dict(heads=12, groups=12, queries=3, keys=4096, batch=1, dtype=getattr(torch, dtype))
            assert error(backend, sinks=sinks, **shape) <= limit, f"{name}, {dtype}, sinks={sinks}, long"
        shape = dict(heads=3, groups=1, queries=1500, keys=1500, batch=1, dtype=torch.float32)
        assert error(backend, sinks=sinks, **shape) <= allowed["float32"], f"{name}, sinks={sinks}, every query"
    if SINKS in sinks_of(name):
        assert error(backend, sinks=20, queries=13, keys=13) <= allowed["float32"], f"{name}, nothing but sinks"


def check_controls(name: str) -> None:
    """Slopes that are a tenth too steep must be noticed by the limits above, and sinks that are left out or one too many; if not, the
    limits prove nothing."""
    backend = build_attention({"name": name})
    wrong = [dict(factor=1.1)] + (
        [dict(sinks=SINKS, more=more) for more in (-SINKS, 1)] if SINKS in sinks_of(name) else []
    )
    for causal, options in product(sides(name), wrong):
        assert error(backend, causal, **options) > backend.config.tolerance["float32"]
        shape = dict(heads=12, groups=4, queries=61, keys=61, width=16, dtype=torch.bfloat16)
        assert error(backend, causal, **options, **shape) > backend.config.tolerance["bfloat16"]
        if has_gradients(name):
            assert gradient_error(backend, causal, **options, queries=5, keys=7, width=4) > 1e-7
