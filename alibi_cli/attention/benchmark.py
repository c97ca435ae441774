"""Time and memory of every registered attention backend, against plain causal attention without a bias in the same run.

One layer, one forward pass without gradients. Time is the median of several repeats after a warm-up; the backends take turns within a
repeat, so that a machine that slows down slows down all of them. Memory is the highest sum of bytes that torch's allocator held at once
during a call, inputs and whatever existed before excluded, output included. On a CPU the sum is taken over the allocator's own events
(torch.profiler, a call of its own), which is exact and repeatable, unlike the process's resident size, but does not see what a kernel
allocates outside of torch (scratch space of a matrix library). On a GPU it is torch.cuda.max_memory_allocated, the same quantity.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch.nn.functional import scaled_dot_product_attention

from alibi_cli.attention.registry import attention_names, build_attention
from alibi_cli.errors import UsageError
from alibi_cli.models.loading import pick_device
from alibi_cli.progress import Update, Watch, steps
from alibi_cli.settings.benchmarking import BenchAttentionSettings
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.presets import settings_of
from alibi_cli.slopes import get_slopes

PLAIN = "plain"  # causal attention without a bias: what the unconverted model runs
SEED = 0
Call = Callable[[], torch.Tensor]


class BenchmarkRow(BaseModel):
    """One backend at one length. status: "ok" or "out_of_memory". seconds, peak_bytes, and their ratios to the row "plain" of the same
    length. max_error, at the shortest length: the largest difference to float64 on the same input; none for plain attention, which computes
    something else. note: why "auto" chose what it chose."""

    backend: str
    length: int
    status: str
    seconds: float | None
    peak_bytes: int | None
    seconds_ratio: float | None
    peak_ratio: float | None
    max_error: float | None
    note: str


class AttentionBenchmark(BaseModel):
    """The JSON of `alibi bench attention`. seconds in its rows are medians of `repeats`."""

    heads: int
    head_dim: int
    batch: int
    repeats: int
    device: str
    dtype: str
    threads: int
    torch: str
    rows: list[BenchmarkRow]

    def plot(self, path: str | Path) -> None:
        """Draws time and memory by length: PNG, SVG or PDF by the ending of `path`.

        Raises:
            AlibiError: the file cannot be written, or its ending is not that of a picture.
        """
        from alibi_cli.plots.bench_plot import draw

        draw(Path(path), self)


@takes_settings(BenchAttentionSettings)
def bench_attention(*, progress: Watch | None = None, **settings: Any) -> AttentionBenchmark:
    """Time and peak memory of every attention backend, against plain causal attention without a bias.

    Args:
        progress: is called with each `Progress`.
        settings: see `BenchAttentionSettings`.

    Raises:
        AlibiError: a backend that is not registered, or a device that is not there.
    """
    return run_bench_attention(settings_of(BenchAttentionSettings, settings), progress)


def run_bench_attention(settings: BenchAttentionSettings, progress: Watch | None = None) -> AttentionBenchmark:
    """`bench_attention`, by settings."""
    names = settings.backends or tuple(attention_names())
    if PLAIN in names:
        raise UsageError(f"{PLAIN!r} is measured in every run.", "Leave it out of `backends`.")
    device = pick_device(settings.device)
    backends = {name: build_attention({"name": name}) for name in names}
    rows: list[BenchmarkRow] = []
    for index, length in enumerate(settings.lengths):
        rows += _at_length(settings, torch.device(device), backends, length, index, steps(progress))
    return AttentionBenchmark(
        heads=settings.heads,
        head_dim=settings.head_dim,
        batch=settings.batch,
        repeats=settings.repeats,
        device=device,
        dtype=settings.dtype,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        rows=rows,
    )


@torch.no_grad()
def _at_length(
    settings: BenchAttentionSettings,
    device: torch.device,
    backends: dict[str, Any],
    length: int,
    index: int,
    update: Update,
) -> list[BenchmarkRow]:
    dtype = getattr(torch, settings.dtype)
    generator = torch.Generator().manual_seed(SEED)
    shape = (settings.batch, settings.heads, length, settings.head_dim)
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    slopes = get_slopes(settings.heads)
    calls: dict[str, Call] = {PLAIN: lambda: scaled_dot_product_attention(query, key, value, is_causal=True)}
    for name, backend in backends.items():
        calls[name] = lambda backend=backend: backend(query, key, value, slopes)  # type: ignore[misc]
    failed: set[str] = set()
    peaks = {name: _peak_bytes(call, device, failed, name) for name, call in calls.items()}  # the warm-up as well
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(settings.repeats):
        for name, call in calls.items():
            update(f"{name} at {length}", index + repeat / settings.repeats, len(settings.lengths))
            if name not in failed:
                seconds[name].append(_seconds(call, device))
    errors: dict[str, float] = {}
    if index == 0 and set(backends) - failed:
        exact = build_attention({"name": "eager"})(query.double(), key.double(), value.double(), slopes)
        errors = {name: (calls[name]().double() - exact).abs().max().item() for name in backends if name not in failed}
    middle = {name: statistics.median(times) if times else None for name, times in seconds.items()}
    return [
        BenchmarkRow(
            backend=name,
            length=length,
            status="out_of_memory" if name in failed else "ok",
            seconds=middle[name],
            peak_bytes=peaks[name],
            seconds_ratio=_ratio(middle[name], middle[PLAIN]),
            peak_ratio=_ratio(peaks[name], peaks[PLAIN]),
            max_error=errors.get(name),
            note=backends[name].explain(query) if name != PLAIN else "",
        )
        for name in calls
    ]


def _ratio(value: float | None, plain: float | None) -> float | None:
    return value / plain if value is not None and plain else None


def _seconds(call: Call, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(call: Call, device: torch.device, failed: set[str], name: str) -> int | None:
    """Peak of one call, as the module says; None, and `name` in `failed`, if it does not fit."""
    gc.collect()
    try:
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call()
            _wait(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        return peak_of_allocations(call)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate" not in str(error):
            raise
    failed.add(name)
    return None


def peak_of_allocations(call: Call) -> int:
    """The highest sum of bytes allocated by torch on the CPU and not yet freed while `call` ran."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        output = call()
    del output
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    held = peak = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        held += int(event["args"]["Bytes"])
        peak = max(peak, held)
    return peak
