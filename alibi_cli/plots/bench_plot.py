"""Time and memory of attention by length."""

from pathlib import Path
from typing import TYPE_CHECKING

from alibi_cli.plots.figures import as_it_is, for_print, write_figure

if TYPE_CHECKING:
    from alibi_cli.attention.benchmark import AttentionBenchmark


@for_print
def draw(path: Path, results: "AttentionBenchmark") -> None:
    """Seconds and peak memory by length, one line per backend; PNG, SVG or PDF by the ending of `path`.

    Raises:
        AlibiError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    plain = results.rows[0].backend
    rows = [row for row in results.rows if row.status == "ok"]
    for axis, quantity, unit in ((axes[0], "seconds", 1.0), (axes[1], "peak_bytes", 1e6)):
        for name in dict.fromkeys(row.backend for row in rows):
            points = [(row.length, getattr(row, quantity) / unit) for row in rows if row.backend == name]
            line = "--" if name == plain else "-"
            axis.plot(*zip(*points, strict=True), marker="o", linestyle=line, label=as_it_is(name))
        axis.set(xscale="log", yscale="log", xlabel="length (tokens)")
        ticks = FixedLocator(sorted({row.length for row in rows}))
        axis.xaxis.set(major_locator=ticks, major_formatter=ScalarFormatter(), minor_locator=NullLocator())
        axis.grid(alpha=0.25)
        axis.legend(fontsize="x-small")
    axes[0].set(ylabel="seconds (median)", title=f"{results.heads} heads of {results.head_dim}, {results.dtype}")
    axes[1].set(ylabel="peak memory (MB)", title=f"batch {results.batch}, {results.device}")
    write_figure(figure, path)
