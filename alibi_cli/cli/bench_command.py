"""alibi bench attention"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alibi_cli.cli import options, output
from alibi_cli.errors import EXIT_FAILED
from alibi_cli.settings.benchmarking import BenchAttentionSettings

if TYPE_CHECKING:
    from alibi_cli.attention.benchmark import AttentionBenchmark, BenchmarkRow

EXAMPLES = (
    "Examples:\n\n  alibi bench attention --lengths 512:4096\n\n"
    "  alibi bench attention --backends sdpa,folded --lengths 1024,8192 --plot attention.png"
)


@options.takes(BenchAttentionSettings)
def command(
    settings: BenchAttentionSettings,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw time and memory by length: .png, .svg or .pdf.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Time and peak memory of every attention backend, against plain causal attention without a bias."""
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # read when torch is loaded: its profiler writes to stderr otherwise
    from alibi_cli.attention.benchmark import run_bench_attention

    with output.progress() as watch:
        results = run_bench_attention(settings, watch)
    if json:
        output.print_json(results)
    else:
        _print(results)
    if plot is not None:
        results.plot(plot)
    if any(row.status != "ok" for row in results.rows):
        raise typer.Exit(EXIT_FAILED)


def _print(results: "AttentionBenchmark") -> None:
    shape = f"batch {results.batch}, {results.heads} heads of {results.head_dim}, {results.dtype}"
    where = f"{results.device} ({results.threads} threads)"
    title = f"{shape}, {where}\nmedian of {results.repeats}; ratios to plain attention without a bias"
    columns = ["backend", "length", "seconds", "time ratio", "peak MB", "peak ratio", "error", "note"]
    rows = [_row(row) for row in results.rows]
    output.print_table(title, columns, rows, numeric=columns[1:-1])


def _row(row: "BenchmarkRow") -> list[str]:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        row.backend,
        str(row.length),
        shown(row.seconds, ".4f"),
        shown(row.seconds_ratio, ".2f"),
        shown(None if row.peak_bytes is None else row.peak_bytes / 1e6, ".1f"),
        shown(row.peak_ratio, ".2f"),
        shown(row.max_error, ".1e"),
        "out of memory" if row.status == "out_of_memory" else row.note,
    ]
