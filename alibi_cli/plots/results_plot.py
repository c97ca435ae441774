"""Pictures of a results file: perplexity by length with intervals, arms beside their model, and NLL by the amount of context."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_cli.errors import AlibiError
from alibi_cli.names import short_names, short_text
from alibi_cli.plots.figures import as_it_is, for_print, write_figure

if TYPE_CHECKING:
    from alibi_cli.evaluation.results import Results, Row

FULL = "full"  # the arm that is the model itself

# Okabe and Ito's colours, in an order in which neighbours differ in lightness too; an arm is told by its line and its marker.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#009E73")
STYLES: dict[str, tuple[Any, str]] = {
    FULL: ("-", "o"),
    "truncated": ("--", "s"),
    "window": (":", "^"),
    "window+sinks": ("-.", "D"),
    "streaming": ((0, (3, 1, 1, 1, 1, 1)), "*"),
    "linear": ((0, (1, 3)), "v"),
    "dynamic": ((0, (5, 4, 1, 4, 1, 4)), "P"),
    "yarn": ((0, (9, 3)), "X"),
}
APART = 0.11  # of the width of an axis: labels of five digits that are nearer than this would touch


@for_print
def draw(results: "Results", by_context: Callable[[Any], tuple[Any, Any]], path: Path | None = None) -> Any:
    """A matplotlib figure; with a path it is written as PNG, SVG or PDF, by its ending. by_context: (context, NLL) of a row's record.

    Raises:
        AlibiError: nothing was scored, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    lines = lines_of(results)
    if not lines:
        raise AlibiError("There is nothing to draw: no row has a figure.")
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    models = dict.fromkeys(model for model, _ in lines)
    colours = {model: COLOURS[index % len(COLOURS)] for index, model in enumerate(models)}
    labels = {model: as_it_is(label) for model, label in short_names(models).items()}
    for (model, arm), rows in lines.items():
        shown = rows if arm == FULL else joined(rows, lines.get((model, FULL), []))
        label = labels[model] + ("" if arm == FULL else f":{arm}")
        wider = 2.4 if (model, arm) == next(iter(lines)) else 1.0  # shows at the edges of a line that covers it
        _draw_lengths(left, shown, arm, wider, label=label, color=colours[model])
        if arm == FULL:
            _draw_positions(right, [by_context(results.record[row.key]) for row in rows], wider, colours[model])
    rows = [row for found in lines.values() for row in found]
    lengths = sorted({row.length for row in rows})
    left.set(
        xlabel="length (tokens)",
        ylabel="perplexity",
        title=as_it_is(f"{results.protocol.name}, {short_text(results.text.name, 30)}"),
    )
    _scale(left, lengths, [row.perplexity or 1.0 for row in rows])
    right.set(
        xlabel="tokens before the scored one", ylabel="NLL (nats)", title="NLL by position, shorter lengths fainter"
    )
    _scale_positions(right, lengths)
    trained = {model.trained_length for model in results.models if model.trained_length}
    # One far beyond would leave most of a panel empty.
    for index, length in enumerate(sorted(length for length in trained if length <= lengths[-1])):
        for axis in (left, right):
            mark = axis.axvline(length, color="grey", linewidth=0.8, linestyle=":", zorder=0)
        mark.set_label("" if index else "trained length")
    handles = [handle for axis in (left, right) for handle in axis.get_legend_handles_labels()[0]]
    # Below the axes, where no line can be hidden.
    columns = min(len(handles), 3 if max(map(len, labels.values())) > 16 else 4)
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=columns, handlelength=4)
    if path is not None:
        write_figure(figure, path)
    return figure


def lines_of(results: "Results") -> "dict[tuple[str, str], list[Row]]":
    """{(model, arm): rows that have figures}"""
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.status == "ok":
            lines.setdefault((row.model, row.arm), []).append(row)
    return lines


def joined(rows: list["Row"], own: list["Row"]) -> list["Row"]:
    """An arm's rows, from the model's own at the longest length at which the arm is the model itself."""
    within = [row for row in own if row.length < rows[0].length and row.length <= _reach(rows[0])]
    return [*within[-1:], *rows]


def _reach(row: "Row") -> float:
    """Up to how many tokens the arm of a row is the original."""
    settings = row.arm_settings or {}
    if "factor" in settings:
        return row.length / settings["factor"]
    return settings["window"] + settings["sinks"] if settings else row.fed_length


def _draw_lengths(axis: Any, rows: list["Row"], arm: str, wider: float, label: str, color: str) -> None:
    line, marker = STYLES.get(arm.split(":", maxsplit=1)[0], STYLES[FULL])
    lengths, values = [row.length for row in rows], [row.perplexity or 0.0 for row in rows]
    marks = dict(marker=marker, markersize=6 * wider**0.5, markerfacecolor=color if arm == FULL else "none")
    axis.plot(lengths, values, linestyle=line, linewidth=1.4 * wider, label=label, color=color, **marks)
    bands = [row.perplexity_ci95 or (value, value) for row, value in zip(rows, values, strict=True)]
    low, high = zip(*bands, strict=True)
    axis.fill_between(lengths, low, high, alpha=0.12, linewidth=0, color=color)


def _draw_positions(axis: Any, curves: list[tuple[Any, Any]], wider: float, color: str) -> None:
    for index, (context, nll) in enumerate(curves):
        axis.plot(context, nll, color=color, alpha=0.35 + 0.65 * (index + 1) / len(curves), linewidth=wider)


def _scale(axis: Any, lengths: list[int], values: list[float]) -> None:
    """Lengths on a logarithmic axis, perplexities on one if they differ much; no two labels touch."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axis.set_xscale("log")
    axis.xaxis.set(
        major_locator=FixedLocator(labelled(lengths)),
        major_formatter=StrMethodFormatter("{x:,.0f}"),
        minor_locator=FixedLocator(lengths),
        minor_formatter=NullFormatter(),
    )
    if max(values) > 4 * min(values):
        axis.set_yscale("log")
        steps = (1, 2, 5) if max(values) < 300 * min(values) else (1,)
        axis.yaxis.set(
            major_locator=LogLocator(subs=steps),
            major_formatter=StrMethodFormatter("{x:,g}"),
            minor_locator=NullLocator(),
        )
    axis.grid(alpha=0.25)


def _scale_positions(axis: Any, lengths: list[int]) -> None:
    """On a logarithmic axis if lengths differ much: each is measured near its end, and most of a linear axis would be empty."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    if lengths[-1] > 4 * lengths[0]:
        axis.set_xscale("log")
        axis.xaxis.set(major_locator=FixedLocator(labelled(lengths)), minor_locator=NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.grid(alpha=0.25)


def labelled(lengths: list[int]) -> list[int]:
    """Those of ascending lengths whose labels have room on a logarithmic axis: the longest, and from there on down."""
    width = math.log(lengths[-1] / lengths[0])
    kept = [lengths[-1]]
    for length in reversed(lengths[:-1]):
        if math.log(kept[-1] / length) >= APART * width:
            kept.append(length)
    return kept[::-1]
