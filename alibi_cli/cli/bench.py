"""alibi bench: time and memory."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alibi_cli.cli import options, output
from alibi_cli.errors import EXIT_FAILED

app = typer.Typer(no_args_is_help=True, help="Measure time and memory.")


@app.callback()
def _group() -> None:
    """Keeps `attention` a subcommand although it is the only one."""


@app.command(
    epilog="Examples:\n\n  alibi bench attention --lengths 512:4096\n\n"
    "  alibi bench attention --backends sdpa,folded --lengths 1024,8192 --plot attention.png"
)
def attention(
    lengths: Annotated[
        str, typer.Option(metavar="L,L,…|A:B", help="Lengths in tokens: a list, or every doubling from A to B.")
    ] = "512:4096",
    heads: Annotated[int, typer.Option(min=1, max=4096, help="Number of attention heads.")] = 12,
    head_dim: Annotated[int, typer.Option(min=1, help="Width of a head.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per call.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls, of which the median is shown.")] = 3,
    backends: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Only these. Default: every registered backend.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …; auto takes a GPU if there is one.")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the input.")] = "float32",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw both by length: .png, .svg or .pdf.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Time and peak memory of every attention backend, against plain causal attention without a bias."""
    from alibi_cli.cli.evaluate import check_files

    parsed = options.parse_lengths(lengths)
    check_files(None, plot, False)
    names = tuple(dict.fromkeys(part.strip() for part in backends.split(","))) if backends is not None else ()

    from alibi_cli.cli.quiet import quiet_libraries

    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # read when torch is loaded: its profiler writes to stderr otherwise
    quiet_libraries()
    from alibi_cli.attention.benchmark import Request, benchmark, draw
    from alibi_cli.evaluation.models import pick_device

    request = Request(parsed, names, heads, head_dim, batch, repeats, pick_device(device), dtype)
    with output.progress() as update:
        results = benchmark(request, update)
    if json:
        output.print_json(results)
    else:
        _print(results)
    if plot is not None:
        draw(plot, results)
    if any(row["status"] != "ok" for row in results["rows"]):
        raise typer.Exit(EXIT_FAILED)


def _print(results: dict[str, Any]) -> None:
    shape = f"batch {results['batch']}, {results['heads']} heads of {results['head_dim']}, {results['dtype']}"
    where = f"{results['device']} ({results['threads']} threads)"
    title = f"{shape}, {where}\nmedian of {results['repeats']}; ratios to plain attention without a bias"
    columns = ["backend", "length", "seconds", "time ratio", "peak MB", "peak ratio", "error", "note"]
    rows = [_row(row) for row in results["rows"]]
    output.print_table(title, columns, rows, numeric=columns[1:-1])


def _row(row: dict[str, Any]) -> list[str]:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        row["backend"],
        str(row["length"]),
        shown(row["seconds"], ".4f"),
        shown(row["seconds_ratio"], ".2f"),
        shown(None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6, ".1f"),
        shown(row["peak_ratio"], ".2f"),
        shown(row["max_error"], ".1e"),
        "out of memory" if row["status"] == "out_of_memory" else row["note"],
    ]
