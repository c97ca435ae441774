"""Heat maps of a page: accuracy by length and depth, and figures of every head."""

import math
from collections.abc import Sequence
from typing import Any

from alibi_cli.calibration.head_report import HeadReport
from alibi_cli.evaluation.tasks.task_results import TaskRow
from alibi_cli.names import short_names
from alibi_cli.reporting.chart import Chart

CELLS_WITH_FIGURES = 150  # more are read by pointing at them


def depths(task: str, label: str, rows: list[TaskRow]) -> Chart:
    lengths = sorted({row.length for row in rows})
    depths = sorted({row.depth for row in rows if row.depth is not None})
    known = {(row.length, row.depth): row.accuracy for row in rows}
    values = [[known.get((length, depth)) for length in lengths] for depth in depths]
    says = f"Accuracy of {label} on {task} by length and depth, from 0 at the beginning of the text to 1 at its end."
    return heat_map(
        f"{task}: {label}",
        values,
        says=says,
        x=[f"{length:,}" for length in lengths],
        y=[f"{depth:.2f}" for depth in depths],
        axes=("length (tokens)", "depth"),
        scale=(0.0, 1.0),
        form=".0%",
    )


def slopes(label: str, values: list[list[float]]) -> Chart:
    """The slope of every head, on a logarithmic scale."""
    flat = [value for layer in values for value in layer]
    says = (
        f"Slopes of {label}, {len(values)} layers of {len(values[0])} heads, from {min(flat):.3g} to {max(flat):.3g}."
    )
    layers = None if len(values) > 1 else ["all"]
    return heat_map(f"Slopes: {label}", values, says=says, y=layers, logarithmic=True)


def heads(report: HeadReport) -> list[Chart]:
    """What every head does, one map a figure."""
    label = short_names([report.model])[report.model]
    charts = []
    for each in report.maps():
        known = [value for layer in each.values for value in layer if value is not None]
        if known:
            says = f"{each.title} of every head of {label}, from {min(known):.3g} to {max(known):.3g}."
            title = f"{each.title}: {label}"
            charts.append(heat_map(title, each.values, says=says, logarithmic=each.logarithmic))
    return charts


def heat_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    says: str,
    x: list[str] | None = None,
    y: list[str] | None = None,
    axes: tuple[str, str] = ("head", "layer"),
    logarithmic: bool = False,
    scale: tuple[float, float] | None = None,
    form: str = ".2g",
) -> Chart:
    """values: rows from the top. logarithmic: colours are spaced by ratio; what has no logarithm is left out."""

    def colour(value: float | None) -> float | None:
        return value if not logarithmic or value is None else math.log10(value) if value > 0 else None

    columns = x or [str(index) for index in range(len(values[0]))]
    rows = y or [str(index) for index in range(len(values))]
    figures = len(columns) * len(rows) <= CELLS_WITH_FIGURES
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [[colour(value) for value in row] for row in values],
        "text": [["–" if value is None else f"{value:{form}}" for value in row] for row in values],
        "x": columns,
        "y": rows,
        "colorscale": "Cividis",
        "hoverongaps": False,
        "hovertemplate": f"{axes[1]} %{{y}}, {axes[0]} %{{x}}: %{{text}}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
    }
    if figures:
        trace |= {"texttemplate": "%{text}", "textfont": {"size": 10}}
    if scale is not None:
        trace |= {"zmin": scale[0], "zmax": scale[1]}
        trace["colorbar"]["tickformat"] = form
    elif logarithmic:
        trace["colorbar"] |= _decades([value for row in trace["z"] for value in row if value is not None])
    layout = {
        "xaxis": {"title": {"text": axes[0]}, "type": "category", "showgrid": False},
        "yaxis": {"title": {"text": axes[1]}, "type": "category", "autorange": "reversed", "showgrid": False},
        "height": min(900, max(260, 150 + 24 * len(rows))),
    }
    return Chart(title, says, [trace], layout, "part" if len(columns) <= 40 else "whole")


def _decades(logs: list[float]) -> dict[str, Any]:
    """Figures on a scale of logarithms: 1, 2 and 5 of every decade, or the powers alone where there are many."""
    low, high = min(logs, default=0.0), max(logs, default=0.0)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    shown = [value for value in values if low <= math.log10(value) <= high] or [10**low]
    return {"tickvals": [math.log10(value) for value in shown], "ticktext": [f"{value:g}" for value in shown]}
