"""Pictures of a results file: perplexity by length with intervals, arms beside their model, and NLL by the amount of context."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_cli.errors import AlibiError
from alibi_cli.plots.figures import write_figure

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
    "linear": ((0, (1, 3)), "v"),
    "dynamic": ((0, (5, 4, 1, 4, 1, 4)), "P"),
    "yarn": ((0, (9, 3)), "X"),
}
APART = 0.11  # of the width of an axis: labels of five digits that are nearer than this would touch


def draw(results: "Results", by_context: Callable[[Any], tuple[Any, Any]], path: Path | None = None) -> Any:
    """A matplotlib figure; with a path it is written as PNG, SVG or PDF, by its ending. by_context: (context, NLL) of a row's record.

    Raises:
        AlibiError: nothing was scored, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    lines: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.status == "ok":
            lines.setdefault((row.model, row.arm), []).append(row)
    if not lines:
        raise AlibiError("There is nothing to draw: no row has a figure.")
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    models = dict.fromkeys(model for model, _ in lines)
    colours = {model: COLOURS[index % len(COLOURS)] for index, model in enumerate(models)}
    for (model, arm), rows in lines.items():
        own = lines.get((model, FULL), [])
        _draw_lengths(left, rows if arm == FULL else joined(rows, own), arm, color=colours[model])
        if arm == FULL:
            _draw_positions(right, rows, lambda row: by_context(results.record[row.key]), colours[model])
    rows = [row for found in lines.values() for row in found]
    left.set(xlabel="length (tokens)", ylabel="perplexity", title=f"{results.protocol.name}, {results.text.name}")
    _scale(left, sorted({row.length for row in rows}), [row.perplexity or 1.0 for row in rows])
    right.set(xlabel="tokens before the scored one", ylabel="NLL (nats)", title="NLL by position")
    longest = max(row.length for row in rows)
    trained = {model.trained_length for model in results.models if model.trained_length}
    within = [length for length in trained if length <= longest]  # one far beyond would leave most of a panel empty
    for axis in (left, right):
        for length in within:
            axis.axvline(length, color="grey", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.25)
        # Below the axes, where no line can be hidden.
        axis.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, handlelength=4)
    if path is not None:
        write_figure(figure, path)
    return figure


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


def _draw_lengths(axis: Any, rows: list["Row"], arm: str, **style: Any) -> None:
    line, marker = STYLES.get(arm.split(":", maxsplit=1)[0], STYLES[FULL])
    label = _label(rows[-1].model) + ("" if arm == FULL else f":{arm}")
    lengths, values = [row.length for row in rows], [row.perplexity or 0.0 for row in rows]
    marks = dict(marker=marker, markersize=6, markerfacecolor=style["color"] if arm == FULL else "none")
    axis.plot(lengths, values, linestyle=line, linewidth=1.4, label=label, **marks, **style)
    bands = [row.perplexity_ci95 or (value, value) for row, value in zip(rows, values, strict=True)]
    low, high = zip(*bands, strict=True)
    axis.fill_between(lengths, low, high, alpha=0.12, linewidth=0, **style)


def _draw_positions(axis: Any, rows: list["Row"], by_context: Callable[["Row"], tuple[Any, Any]], colour: str) -> None:
    for index, row in enumerate(rows):
        context, nll = by_context(row)
        depth = 0.35 + 0.65 * (index + 1) / len(rows)
        axis.plot(context, nll, color=colour, alpha=depth, linewidth=1, label=f"{_label(row.model)} at {row.length}")


def _scale(axis: Any, lengths: list[int], values: list[float]) -> None:
    """Lengths on a logarithmic axis, perplexities on one if they differ much; no two labels touch."""
    from matplotlib.ticker import (
        FixedLocator,
        FormatStrFormatter,
        LogLocator,
        NullFormatter,
        NullLocator,
        ScalarFormatter,
    )

    axis.set_xscale("log")
    axis.xaxis.set(
        major_locator=FixedLocator(labelled(lengths)),
        major_formatter=ScalarFormatter(),
        minor_locator=FixedLocator(lengths),
        minor_formatter=NullFormatter(),
    )
    if max(values) > 4 * min(values):
        axis.set_yscale("log")
        steps = (1, 2, 5) if max(values) < 300 * min(values) else (1,)
        axis.yaxis.set(
            major_locator=LogLocator(subs=steps), major_formatter=FormatStrFormatter("%g"), minor_locator=NullLocator()
        )


def labelled(lengths: list[int]) -> list[int]:
    """Those of ascending lengths whose labels have room on a logarithmic axis: the longest, and from there on down."""
    width = math.log(lengths[-1] / lengths[0])
    kept = [lengths[-1]]
    for length in reversed(lengths[:-1]):
        if math.log(kept[-1] / length) >= APART * width:
            kept.append(length)
    return kept[::-1]


def _label(model: str) -> str:
    """A model's name as matplotlib shows it unchanged: a $ would start a formula, a leading _ would hide it."""
    name = Path(model).name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
