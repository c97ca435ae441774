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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from alibi_cli.attention.registry import attention_names, build_attention
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.slopes import get_slopes

PLAIN = "plain"  # causal attention without a bias: what the unconverted model runs
Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Request:
    """What to measure. backends: names; all registered ones if empty. lengths: queries = keys. The rest as in `alibi bench attention
    --help`."""

    lengths: tuple[int, ...]
    backends: tuple[str, ...] = ()
    heads: int = 12
    head_dim: int = 64
    batch: int = 1
    repeats: int = 3
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0


def benchmark(request: Request, update: Callable[[str, float, float], None] = lambda *_: None) -> dict[str, Any]:
    """{"heads", "head_dim", "batch", "repeats", "device", "dtype", "threads", "torch", "rows"}; a row has "backend", "length", "status"
    ("ok" or "out_of_memory"), "seconds", "seconds_ratio", "peak_bytes", "peak_ratio" (both to the row "plain" of the same length) and, at
    the shortest length, "max_error": the largest difference to float64 on the same input; None for plain attention, which computes
    something else. "note" says why "auto" chose what it chose.

    Raises:
        AlibiError: a backend that is not registered.
    """
    names = request.backends or tuple(attention_names())
    if PLAIN in names:
        raise UsageError(f"{PLAIN!r} is measured in every run.", "Leave it out of `backends`.")
    backends = {name: build_attention({"name": name}) for name in names}
    rows: list[dict[str, Any]] = []
    for index, length in enumerate(request.lengths):
        rows += _at_length(request, backends, length, index, update)
    return {
        **{key: getattr(request, key) for key in ("heads", "head_dim", "batch", "repeats", "device", "dtype")},
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "rows": rows,
    }


@torch.no_grad()
def _at_length(
    request: Request, backends: dict[str, Any], length: int, index: int, update: Callable[[str, float, float], None]
) -> list[dict[str, Any]]:
    device, dtype = torch.device(request.device), getattr(torch, request.dtype)
    generator = torch.Generator().manual_seed(request.seed)
    shape = (request.batch, request.heads, length, request.head_dim)
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    slopes = get_slopes(request.heads)
    calls: dict[str, Call] = {PLAIN: lambda: scaled_dot_product_attention(query, key, value, is_causal=True)}
    for name, backend in backends.items():
        calls[name] = lambda backend=backend: backend(query, key, value, slopes)  # type: ignore[misc]
    failed: set[str] = set()
    peaks = {name: _peak_bytes(call, device, failed, name) for name, call in calls.items()}  # the warm-up as well
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(request.repeats):
        for name, call in calls.items():
            update(f"{name} at {length}", index + repeat / request.repeats, len(request.lengths))
            if name not in failed:
                seconds[name].append(_seconds(call, device))
    errors: dict[str, float] = {}
    if index == 0 and set(backends) - failed:
        exact = build_attention({"name": "eager"})(query.double(), key.double(), value.double(), slopes)
        errors = {name: (calls[name]().double() - exact).abs().max().item() for name in backends if name not in failed}
    rows: list[dict[str, Any]] = []
    for name in calls:
        row: dict[str, Any] = {"backend": name, "length": length, "status": "out_of_memory" if name in failed else "ok"}
        row["seconds"] = statistics.median(seconds[name]) if seconds[name] else None
        row["peak_bytes"] = peaks[name]
        row["seconds_ratio"] = _ratio(row["seconds"], rows[0]["seconds"] if rows else row["seconds"])
        row["peak_ratio"] = _ratio(row["peak_bytes"], rows[0]["peak_bytes"] if rows else row["peak_bytes"])
        row["max_error"] = errors.get(name)
        row["note"] = backends[name].explain(query) if name != PLAIN else ""
        rows.append(row)
    return rows


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


def draw(path: Path, results: dict[str, Any]) -> None:
    """Seconds and peak memory by length, one line per backend; PNG, SVG or PDF by the ending of `path`.

    Raises:
        AlibiError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    rows: Sequence[dict[str, Any]] = [row for row in results["rows"] if row["status"] == "ok"]
    for axis, quantity, unit in ((axes[0], "seconds", 1.0), (axes[1], "peak_bytes", 1e6)):
        for name in dict.fromkeys(row["backend"] for row in rows):
            points = [(row["length"], row[quantity] / unit) for row in rows if row["backend"] == name]
            label = " " + name if name.startswith("_") else name  # matplotlib hides labels that start with _
            axis.plot(*zip(*points, strict=True), marker="o", linestyle="--" if name == PLAIN else "-", label=label)
        axis.set(xscale="log", yscale="log", xlabel="length (tokens)")
        ticks = FixedLocator(sorted({row["length"] for row in rows}))
        axis.xaxis.set(major_locator=ticks, major_formatter=ScalarFormatter(), minor_locator=NullLocator())
        axis.grid(alpha=0.25)
        axis.legend(fontsize="x-small")
    axes[0].set(
        ylabel="seconds (median)", title=f"{results['heads']} heads of {results['head_dim']}, {results['dtype']}"
    )
    axes[1].set(ylabel="peak memory (MB)", title=f"batch {results['batch']}, {results['device']}")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise AlibiError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        pyplot.close(figure)
