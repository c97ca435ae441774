"""What every attention backend must satisfy, against a float64 reference written here from the definition: loops over heads and queries
in numpy, no product code. A test calls `check(name)`; a backend registered anywhere passes through the same door."""

import math
from itertools import product
from typing import Any

import numpy as np
import torch

from alibi_cli.attention.near_sinks import NearSinks
from alibi_cli.attention.registry import AttentionBackend, build_attention, config_of


def slopes_for(heads: int) -> list[float]:
    """Press et al., section 3: 2^(-8/p), … for p heads, the rest from every other one of 2p heads."""
    p = 2 ** int(math.log2(heads))
    return ([2 ** (-8 * i / p) for i in range(1, p + 1)] + [2 ** (-4 * i / p) for i in range(1, 2 * p, 2)])[:heads]


SINKS, OFFSETS, LIMIT = 3, [0.0, 2.5, 1.0, 40.0, 6.5, 3.0] * 2, 4
FREQUENCIES = [1.0, 0.25]  # of a rotation of the first four dimensions


def near(distance=LIMIT, interleaved=False):
    return NearSinks(distance, torch.tensor(FREQUENCIES), interleaved)


def turned(q, by, interleaved):
    """A query (D,) rotated by so many tokens: as complex numbers, of which it holds neighbours or halves."""
    pairs = q[:4].reshape(2, 2) if interleaved else q[:4].reshape(2, 2).T
    number = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(1j * by * np.array(FREQUENCIES))
    pairs = np.stack([number.real, number.imag], 1)
    return np.concatenate([(pairs if interleaved else pairs.T).reshape(-1), q[4:]])


def reference(query, key, value, slopes, causal, sinks=0, offsets=None, near_sinks=None):
    """(B, H, Q, D) float64; queries are the last Q of the K positions, the first `sinks` keys get no bias, and a query that is farther away
    from the first than `near_sinks.distance` is rotated back by the rest before it meets them."""
    q, k, v = (tensor.detach().double().numpy() for tensor in (query, key, value))
    out = np.zeros(q.shape)
    past = k.shape[2] - q.shape[2]
    for b, h, i in np.ndindex(*q.shape[:3]):
        g = h // (q.shape[1] // k.shape[1])
        n = past + i + 1 if causal else k.shape[2]
        ramp = np.abs(past + i - np.arange(n))
        ramp = np.where(np.arange(n) < sinks, 0, ramp if offsets is None else np.maximum(0, ramp - offsets[h]))
        products = k[b, g, :n] @ q[b, h, i]
        if near_sinks is not None and past + i > near_sinks.distance:
            of_sinks = turned(q[b, h, i], near_sinks.distance - (past + i), near_sinks.interleaved)
            products[:sinks] = k[b, g, : min(n, sinks)] @ of_sinks
        scores = products / math.sqrt(q.shape[3]) - slopes[h] * ramp
        weights = np.exp(scores - scores.max())
        out[b, h, i] = weights / weights.sum() @ v[b, g, :n]
    return torch.from_numpy(out)


def tensors(heads=6, groups=2, queries=9, keys=9, width=8, dtype=torch.float32, batch=2):
    generator = torch.Generator().manual_seed(7)
    shapes = ((batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def of_heads(options, heads):
    return {**options, "offsets": options["offsets"][:heads]} if options.get("offsets") else options


_EXPECTED: dict[str, torch.Tensor] = {}


def error(backend: AttentionBackend, causal=True, given=None, wrong=None, factor=1.0, **shape) -> float:
    """Largest absolute error of the output. given: what it takes beside slopes. Negative controls: `factor` on the slopes of the backend
    alone, and options that are `wrong`."""
    query, key, value = tensors(**shape)
    slopes, given = slopes_for(query.shape[1]), of_heads(given or {}, query.shape[1])
    out = backend(query, key, value, [factor * m for m in slopes], causal=causal, **{**given, **(wrong or {})})
    assert out.shape == query.shape and out.dtype == query.dtype
    case = repr((causal, given, shape))
    if case not in _EXPECTED:  # loops are slow, and all backends are asked the same
        _EXPECTED[case] = reference(query, key, value, slopes, causal, **given)
    return (out.double() - _EXPECTED[case]).abs().max().item()


def gradient_error(backend: AttentionBackend, causal=True, given=None, wrong=None, factor=1.0, **shape) -> float:
    """Largest difference between autograd in float64 and central differences of the numpy reference, for some entries of each input."""
    inputs = [tensor.requires_grad_() for tensor in tensors(dtype=torch.float64, **shape)]
    slopes, given = slopes_for(inputs[0].shape[1]), of_heads(given or {}, inputs[0].shape[1])
    weight = torch.linspace(-1, 1, inputs[0].numel(), dtype=torch.float64).reshape(inputs[0].shape)
    out = backend(*inputs, [factor * m for m in slopes], causal=causal, **{**given, **(wrong or {})})
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    worst, step = 0.0, 1e-5
    for which, gradient in enumerate(gradients):
        for place in range(0, gradient.numel(), max(1, gradient.numel() // 12)):
            sums = []
            for sign in (1, -1):
                moved = [tensor.detach().clone() for tensor in inputs]
                moved[which].view(-1)[place] += sign * step
                sums.append((reference(*moved, slopes, causal, **given) * weight).sum().item())
            numeric = (sums[0] - sums[1]) / (2 * step)
            worst = max(worst, abs(numeric - gradient.reshape(-1)[place].item()))
    return worst


def sides(name: str) -> list[bool]:
    return [True, False] if config_of(name).symmetric else [True]


def has_gradients(name: str) -> bool:
    return "cpu" not in config_of(name).no_gradients_on


def options_of(name: str) -> list[dict[str, Any]]:
    """What a backend takes beside slopes: nothing, sinks, and all that it takes."""
    everything = dict(sinks=SINKS, offsets=OFFSETS, near_sinks=near())
    taken = {option: value for option, value in everything.items() if getattr(config_of(name), f"takes_{option}")}
    options: list[dict[str, Any]] = [{}, *([dict(sinks=SINKS)] if "sinks" in taken else [])]
    return options if taken in options else [*options, taken]


def check(name: str) -> None:
    """Forward, gradients, grouped queries, a cache, both sides, low precision, long distances; all with what else the backend takes."""
    backend = build_attention({"name": name})
    allowed, options = backend.config.tolerance, options_of(name)
    for causal, given in product(sides(name), options):
        for dtype, limit in allowed.items():
            if dtype != "float32" and given in options[1:-1]:
                continue  # what is right with nothing and with everything is so with some of it
            for shape in (
                dict(),
                dict(heads=4, groups=4),  # no sharing
                dict(heads=5, groups=1, queries=1, keys=1),
                dict(queries=1, keys=13),  # one new token after a cache
                dict(queries=4, keys=13),  # a chunk after a cache
                dict(heads=12, groups=4, queries=61, keys=61, width=16),
            ):
                found = error(backend, causal, given, dtype=getattr(torch, dtype), **shape)
                assert found <= limit, f"{name}, {dtype}, causal={causal}, {given}, {shape}: {found}"
        if has_gradients(name):
            assert gradient_error(backend, causal, given, queries=5, keys=7, width=4) <= 1e-7
    for given in options:
        for dtype, limit in allowed.items():  # far more keys than the last queries' steep heads see
            shape = dict(heads=12, groups=12, queries=3, keys=4096, batch=1, dtype=getattr(torch, dtype))
            assert error(backend, given=given, **shape) <= limit, f"{name}, {dtype}, {given}, long"
        shape = dict(heads=3, groups=1, queries=1500, keys=1500, batch=1, dtype=torch.float32)
        assert error(backend, given=given, **shape) <= allowed["float32"], f"{name}, {given}, every query"
    if config_of(name).takes_sinks:
        only_sinks = error(backend, given=dict(sinks=20), queries=13, keys=13)
        assert only_sinks <= allowed["float32"], f"{name}, nothing but sinks"
    if config_of(name).takes_near_sinks:
        given = dict(sinks=SINKS, near_sinks=near(interleaved=True))
        assert error(backend, given=given, queries=13, keys=13) <= allowed["float32"], f"{name}, neighbours"


def check_controls(name: str) -> None:
    """Slopes that are a tenth too steep must be noticed by the limits above, and what else is left out or a little off; if not, the limits
    prove nothing."""
    backend = build_attention({"name": name})
    wrong: list[dict[str, Any]] = [dict(factor=1.1)]
    little_off = dict(sinks=[0, SINKS + 1], offsets=[None], near_sinks=[None, near(LIMIT + 1)])
    *_, given = options_of(name)
    wrong += [dict(given=given, wrong={option: other}) for option in given for other in little_off[option]]
    for causal, options in product(sides(name), wrong):
        assert error(backend, causal, **options) > backend.config.tolerance["float32"]
        shape = dict(heads=12, groups=4, queries=61, keys=61, width=16, dtype=torch.bfloat16)
        assert error(backend, causal, **options, **shape) > backend.config.tolerance["bfloat16"]
        if has_gradients(name):
            assert gradient_error(backend, causal, **options, queries=5, keys=7, width=4) > 1e-7
