"""Attention with ALiBi against plain causal attention without any bias, which is what the unconverted model pays.

Time is the least of several repeats in which the arms take turns, spread over minutes, because a virtual machine has slow ones; what each
call has to prepare (distances, bias, bound) is timed with it. On a CPU it is the CPU time of all threads, waiting for each other included,
which other processes disturb little.
Inputs are standard normal, 12 heads of 64, and the queries and keys of the demonstration checkpoints, repeated to the length; their slopes
are Press's, and those that a look at the original's attention suggests (m = ln(1 + 1 / mean distance), layer by layer). `auto` chooses the
backend: another on a GPU, in bfloat16. Batches with padding, packed documents and windows are compared with the materialised bias that
they would otherwise need.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    packed_sequence_mask_function,
    sliding_window_causal_mask_function,
)

from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.attention.in_models import registered
from alibi_cli.attention.registry import attention_names, build_attention, config_of
from alibi_cli.slopes import get_slopes
from benchmarks.claims import Claim

HEADS, WIDTH = 12, 64
TARGETS = {2048: 1.15, 4096: 1.0, 8192: 0.6, 16384: 0.4, 32768: 0.25}  # of plain attention's time
AGAINST_MATERIALISED = 0.2  # five times faster
MATERIALISED_AT = 4096
ROUNDS = 4  # of all cases
ERROR_LENGTHS = (512, 4096, 70_000)  # the last beyond 2^16
DEVICE, DTYPE = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def measure(
    short: bool, targets: dict[int, float] = TARGETS, error_lengths: tuple[int, ...] = ERROR_LENGTHS
) -> Iterator[Claim]:
    lengths = [length for length in targets if not short or length <= 8192]
    with torch.no_grad():
        cases = [
            _Case("normal", length, [(_normal(length, dtype=DTYPE), {"": get_slopes(HEADS)})]) for length in lengths
        ]
        for name in ("demo-gpt2", "demo-llama"):
            layers = list(_layers_of(name))
            cases += [_Case(name, length, layers) for length in (lengths if not short else lengths[-1:])]
        for _ in range(1 if short else ROUNDS):
            for case in cases:
                case.run(repeats=max(1, 16384 // case.length))
        for case in cases:
            yield from case.claims(targets[case.length])
        yield from _masked(MATERIALISED_AT if MATERIALISED_AT in lengths else lengths[-1])
        yield from _memory([length for length in lengths if length <= 8192])
        yield from _errors([length for length in error_lengths if not short or length != 4096])
        if not short:
            yield from _compiled()
    yield _gradients()


def _normal(
    length: int,
    keys: int = 0,
    heads: int = HEADS,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, n, width, generator=generator) for n in (length, keys or length, keys or length)
    )
    return query.to(DEVICE, dtype), key.to(DEVICE, dtype), value.to(DEVICE, dtype)


def _least(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each arm: the least of `repeats`."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, call in arms.items():
            started = _now()
            call()
            best[name] = min(best[name], _now() - started)
    return best


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(query, key, value, is_causal=True)


@dataclass
class _Case:
    """The attention of all layers of a model at one length.

    layers: query, key and value, which are repeated to the length, and {arm: slopes}. least: {arm: seconds} of each layer.
    """

    name: str
    length: int
    layers: list[tuple[Tensors, dict[str, list[float]]]]
    least: list[dict[str, float]] = field(default_factory=list)

    def run(self, repeats: int) -> None:
        ours, found = build_attention({"name": "auto"}), []
        for tensors, slopes in self.layers:
            query, key, value = (t.repeat(1, 1, self.length // t.shape[2], 1).to(DEVICE, DTYPE) for t in tensors)
            arms: dict[str, Callable[[], Any]] = {"plain": partial(_plain, query, key, value)}
            arms |= {arm: partial(ours, query, key, value, values) for arm, values in slopes.items()}
            if self.name == "normal" and self.length == MATERIALISED_AT:
                arms["materialised"] = partial(build_attention({"name": "sdpa"}), query, key, value, slopes[""])
            found.append(_least(arms, repeats))
        before = self.least or found
        self.least = [{arm: min(x[arm], y[arm]) for arm in x} for x, y in zip(before, found, strict=True)]

    def claims(self, target: float) -> Iterator[Claim]:
        total = {arm: sum(layer[arm] for layer in self.least) for arm in self.least[0]}
        plain, materialised = total.pop("plain"), total.pop("materialised", None)
        for arm, seconds in total.items():
            where = f"attention, {self.length} tokens, {self.name}" + (f", {arm}" if arm else "")
            yield Claim(claim=where, against="causal, no bias", unit="s", ours=seconds, baseline=plain, target=target)
            if materialised is not None:
                yield Claim(
                    claim=where,
                    against="materialised bias",
                    unit="s",
                    ours=seconds,
                    baseline=materialised,
                    target=AGAINST_MATERIALISED,
                )


def _layers_of(name: str) -> Iterator[tuple[Tensors, dict[str, list[float]]]]:
    """Query, key and value of every layer of a converted demonstration checkpoint on 512 tokens of text, Press's and look-back slopes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alibi_cli import apply_alibi
    from alibi_cli.calibration.heads import observe_heads
    from alibi_cli.calibration.lookback import slopes_of_distances
    from alibi_cli.runtime import alibi_attention as runtime
    from alibi_cli.settings.presets import presets_folder
    from alibi_cli.text.documents import load_text

    folder = presets_folder() / name
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    text = load_text().documents[0][1]
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text).input_ids[:512]])
    slopes = slopes_of_distances(observe_heads(model, [ids]).distance).tolist()
    apply_alibi(model, max_sequence_length=512)
    caught: list[Tensors] = []

    def catch(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]
        caught.append((query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)))
        return runtime.alibi_attention(module, query, key, value, *rest, **options)

    with registered(catch):
        model(input_ids=ids)
    for tensors, look_back in zip(caught, slopes, strict=True):
        yield tensors, {"Press slopes": get_slopes(len(look_back)), "look-back slopes": look_back}


def _masked(length: int) -> Iterator[Claim]:
    """What converted checkpoints do with masks that hide more than what follows a query; the mask is computed again by every call."""
    from alibi_cli.runtime.alibi_attention import alibi_attention, alibi_distances

    layer = SimpleNamespace(alibi_slopes=get_slopes(HEADS), training=False)
    token, n = torch.arange(length, device=DEVICE), torch.tensor([[length // 3], [length // 8]], device=DEVICE)
    documents = (token // 500)[None].expand(2, -1)
    masks: dict[str, dict[str, Any]] = {
        "padded on the left": dict(attention_mask=token >= n),
        "padded on the right": dict(attention_mask=token < length - n),
        "documents of 500": dict(
            mask_function=and_masks(causal_mask_function, packed_sequence_mask_function(documents))
        ),
        "window of 1024": dict(mask_function=sliding_window_causal_mask_function(1024)),
    }
    query, key, value = (tensor.repeat(2, 1, 1, 1) for tensor in _normal(length, dtype=DTYPE))

    def attend(mask: dict[str, Any], materialised: bool) -> Any:
        distances: Any = alibi_distances(2, length, length, device=DEVICE, **mask)
        return alibi_attention(layer, query, key, value, distances.entries() if materialised else distances)

    for name, mask in masks.items():
        arms = {"ours": lambda: attend(mask, False), "materialised": lambda: attend(mask, True)}  # noqa: B023
        found = _least(arms, 2)
        yield Claim(
            claim=f"attention, {length} tokens, two rows, {name}",
            against="materialised bias",
            unit="s",
            ours=found["ours"],
            baseline=found["materialised"],
            target=AGAINST_MATERIALISED,
        )


def _memory(lengths: list[int]) -> Iterator[Claim]:
    blocked, slopes = build_attention({"name": "blocked"}), get_slopes(HEADS)
    peaks = {}
    for length in lengths:
        query, key, value = (tensor.cpu() for tensor in _normal(length))
        peaks[length] = peak_of_allocations(lambda: blocked(query, key, value, slopes)) / 1e6  # noqa: B023
    for shorter, longer in pairwise(lengths):
        yield Claim(
            claim=f"peak memory of attention, {longer} tokens",
            against=f"linear growth from {shorter}",
            unit="MB",
            ours=peaks[longer],
            baseline=peaks[shorter] * longer / shorter,
            target=1.05,
        )


def _errors(lengths: list[int]) -> Iterator[Claim]:
    """The last 300 queries of a length, by every backend in every dtype, against float64."""
    slopes = get_slopes(3)
    for length in lengths:
        for dtype in ("float32", "bfloat16", "float16"):
            tensors = _normal(300, length, heads=3, width=16, dtype=getattr(torch, dtype))
            exact = _exact(tensors, slopes)
            for name in attention_names():
                error = (build_attention({"name": name})(*tensors, slopes).double() - exact).abs().max().item()
                yield Claim(
                    claim=f"error of {name}, {dtype}, {length} tokens",
                    against="float64",
                    unit="",
                    ours=error,
                    baseline=config_of(name).tolerance[dtype],
                    target=1.0,
                )


def _compiled(length: int = 4096) -> Iterator[Claim]:
    """FlexAttention's kernel, which `_errors` leaves uncompiled on a CPU, and how long the first call takes."""
    tensors, slopes = _normal(300, length, heads=3, width=16), get_slopes(3)
    flex, started = build_attention({"name": "flex", "compiled": True}), time.perf_counter()
    error = (flex(*tensors, slopes).double() - _exact(tensors, slopes)).abs().max().item()
    seconds, allowed = time.perf_counter() - started, config_of("flex").tolerance["float32"]
    yield Claim(
        claim=f"error of flex compiled, {length} tokens",
        against="float64",
        unit="",
        ours=error,
        baseline=allowed,
        target=1,
    )
    yield Claim(
        claim="first call of flex, compiling", against="a minute", unit="s", ours=seconds, baseline=60, target=1
    )


def _exact(tensors: Tensors, slopes: list[float]) -> torch.Tensor:
    """In float64, some queries at a time: the whole matrix of scores would not fit."""
    query, key, value = (tensor.double() for tensor in tensors)
    eager, past = build_attention({"name": "eager"}), key.shape[2] - query.shape[2]
    parts = [
        eager(query[:, :, begin : begin + 50], key[:, :, : past + begin + 50], value[:, :, : past + begin + 50], slopes)
        for begin in range(0, query.shape[2], 50)
    ]
    return torch.cat(parts, dim=2)


def _gradients(length: int = 1024) -> Claim:
    from alibi_cli.runtime.alibi_attention import Compact, alibi_attention

    gradients = []
    for dtype in (torch.float32, torch.float64):
        query, key, value = (tensor.requires_grad_() for tensor in _normal(length, heads=4, width=32, dtype=dtype))
        distances = Compact.of(length, length, True, DEVICE)
        layer = SimpleNamespace(alibi_slopes=get_slopes(4), training=True)
        out, _ = alibi_attention(layer, query, key, value, distances if dtype == torch.float32 else distances.entries())
        gradients.append(torch.autograd.grad(out.square().sum(), (query, key, value)))
    error = max(((ours - exact).abs().max() / exact.abs().max()).item() for ours, exact in zip(*gradients, strict=True))
    return Claim(
        claim=f"relative error of gradients, float32, {length} tokens",
        against="float64",
        unit="",
        ours=error,
        baseline=1e-5,
        target=1.0,
    )
