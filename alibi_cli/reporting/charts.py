"""The charts of a page, as data for Plotly.js: what is drawn, and in words what it shows. Colours are named by the page's style sheet."""

import math
from collections.abc import Sequence
from typing import Any

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.results import Contrast, Results, Row
from alibi_cli.evaluation.statistics import by_context
from alibi_cli.evaluation.tables import labels_of, named, what_an_arm_does
from alibi_cli.evaluation.tasks.task_results import TaskResults
from alibi_cli.names import short_names
from alibi_cli.plots.results_plot import joined, labelled, lines_of
from alibi_cli.reporting.chart import Chart
from alibi_cli.reporting.checkpoints import Curve
from alibi_cli.reporting.heat_maps import depths

COLOURS = 7
ARMS = {  # of Plotly: line, marker
    FULL: ("solid", "circle"),
    "truncated": ("dash", "square-open"),
    "window": ("dot", "triangle-up-open"),
    "window+sinks": ("dashdot", "diamond-open"),
    "streaming": ("2px,4px", "star-open"),
    "linear": ("longdash", "triangle-down-open"),
    "dynamic": ("longdashdot", "cross-open"),
    "yarn": ("5px,2px,1px,2px", "x-open"),
}
HOVER = "<extra></extra><b>%{fullData.name}</b><br>"  # in place of a box beside it, which the page's edge would cut
LEAST_SCALE = 0.001  # nats: an axis of less would magnify rounding, which the tables print as 0.0000
FAR_APART = 4  # a ratio from which on an axis is logarithmic


def perplexity(results: Results) -> Chart | None:
    """Perplexity by length with intervals; arms beside their model, joined where they are the model itself."""
    labels, lines = labels_of(results), lines_of(results)
    if not lines:
        return None
    data = []
    for (model, arm), rows in lines.items():
        shown = rows if arm == FULL else joined(rows, lines.get((model, FULL), []))
        values = [row.perplexity or math.nan for row in shown]
        notes = [", ".join(filter(None, [what_an_arm_does(row), _interval(row)])) for row in shown]
        data.append(
            {
                "name": named(labels, model, arm),
                "x": [row.length for row in shown],
                "y": values,
                "text": notes,
                "error_y": _intervals(values, [row.perplexity_ci95 for row in shown]),
                "hovertemplate": HOVER + "%{y:.4~g} at %{x:,} tokens<br>%{text}",
                **_style(labels, model, arm),
            }
        )
    values = [row.perplexity or 1.0 for rows in lines.values() for row in rows]
    lengths = sorted({row.length for rows in lines.values() for row in rows})
    marks = _trained(results, lengths[-1])
    says = f"Perplexity of {len(lines)} rows of figures at {_numbers(lengths)} tokens, from {min(values):.4g} to {max(values):.4g}."
    return Chart(
        "Perplexity by length", says, data, {**_lengths(lengths), "yaxis": _axis("perplexity", values), **marks}
    )


def positions(results: Results) -> Chart | None:
    """NLL by the amount of context, of the models themselves at every length."""
    labels, data, seen = labels_of(results), [], []
    for (model, arm), rows in lines_of(results).items():
        for index, row in enumerate(rows if arm == FULL else []):
            context, nll = by_context(results.record[row.key])
            seen += [float(value) for value in context]
            data.append(
                {
                    **_style(labels, model, FULL),
                    "mode": "lines",
                    "name": labels[model],
                    "legendgroup": model,
                    "showlegend": index == len(rows) - 1,
                    "opacity": 0.4 + 0.6 * (index + 1) / len(rows),
                    "x": [
                        max(1.0, round(float(value), 1)) for value in context
                    ],  # 0 has no place on a logarithmic axis
                    "y": [round(float(value), 5) for value in nll],
                    "hovertemplate": HOVER + f"%{{y:.4f}} nats after %{{x:,.0f}} tokens<br>length {row.length:,}",
                }
            )
    if not data:
        return None
    lengths = sorted({row.length for row in results.rows if row.status == "ok"})
    span = f"from {min(seen):,.0f} to {max(seen):,.0f}"
    says = f"NLL in nats by the number of tokens before the scored one, {span}; fainter lines are shorter lengths."
    wide = lengths[-1] > FAR_APART * lengths[0]  # then most of a linear axis would be empty
    axis = {**(_lengths(lengths)["xaxis"] if wide else {}), "title": {"text": "tokens before the scored one"}}
    layout = {"xaxis": axis, "yaxis": {"title": {"text": "NLL (nats)"}}, **_trained(results, max(seen), wide)}
    return Chart("NLL by position", says, data, layout)


def differences(results: Results) -> Chart | None:
    """Paired differences from baselines and their arms, with intervals around them and zero marked."""
    labels = labels_of(results)
    lines: dict[tuple[str, str, str], list[Contrast]] = {}
    for each in results.contrasts:
        if each.model != each.baseline:
            lines.setdefault((each.model, each.baseline, each.baseline_arm), []).append(each)
    if not lines:
        return None
    data = []
    for (model, baseline, arm), found in lines.items():
        data.append(
            {
                "name": f"{labels[model]} against {named(labels, baseline, arm)}",
                "x": [each.length for each in found],
                "y": [each.delta_nll for each in found],
                "text": [each.verdict for each in found],
                "error_y": _intervals([each.delta_nll for each in found], [each.ci95 for each in found]),
                "hovertemplate": HOVER + "%{y:+.4f} nats at %{x:,} tokens<br>%{text}",
                **_style(labels, model, arm),
            }
        )
    lengths = sorted({each.length for found in lines.values() for each in found})
    zero = {"shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": _faint()}]}
    count = sum(map(len, lines.values()))
    says = (
        f"{count} paired differences in nats per token at {_numbers(lengths)} tokens; below zero the model is better."
    )
    axis: dict[str, Any] = {"title": {"text": "ΔNLL (nats per token), lower is better"}, "exponentformat": "none"}
    ends = [abs(end) for found in lines.values() for each in found for end in (each.delta_nll, *(each.ci95 or ()))]
    if max(ends) < LEAST_SCALE:
        axis["range"] = [-LEAST_SCALE, LEAST_SCALE]
    layout = {**_lengths(lengths), "yaxis": axis, **zero}
    return Chart("Paired differences", says, data, layout)


def accuracy(results: TaskResults) -> list[Chart]:
    """Accuracy on a task by length, with guessing marked, and a map by length and depth for each model."""
    labels = short_names(model.name for model in results.models)
    rows = [row for row in results.rows if row.accuracy is not None]
    if not rows:
        return []
    data = []
    for model in labels:
        found = [row for row in rows if row.model == model and row.depth is None]
        data.append(
            {
                "name": labels[model],
                "x": [row.length for row in found],
                "y": [row.accuracy for row in found],
                "error_y": _intervals([row.accuracy or 0.0 for row in found], [row.ci95 for row in found]),
                "hovertemplate": HOVER + "%{y:.1%} at %{x:,} tokens",
                **_style(labels, model, FULL),
            }
        )
    lengths = sorted({row.length for row in rows})
    chance = results.task.chance
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance, "line": _faint()}
    name = results.task.name
    says = f"Accuracy of {len(data)} models on {name} at {_numbers(lengths)} tokens; guessing gets {chance:.4g}."
    percent = {"title": {"text": "accuracy"}, "tickformat": ".0%", "range": [-0.02, 1.02]}
    charts = [
        Chart(f"{name}: accuracy by length", says, data, {**_lengths(lengths), "yaxis": percent, "shapes": [line]})
    ]
    if results.task.depths:
        charts += [depths(name, labels[model], [row for row in rows if row.model == model]) for model in labels]
    return charts


def curves(title: str, found: list[tuple[str, list[Curve]]], ylabel: str) -> Chart | None:
    """What calibration or training lowered, by the tokens that it had read. found: (label, curves) of checkpoints."""
    data = []
    for index, (label, lines) in enumerate(found):
        for number, curve in enumerate(lines):
            data.append(
                {
                    "name": f"{label}, {curve.name}",
                    "x": [tokens for tokens, _ in curve.points],
                    "y": [value for _, value in curve.points],
                    "mode": "lines+markers" if len(curve.points) < 12 else "lines",
                    "line": {"color": _colour(index), "width": 1.6, "dash": ("solid", "dash", "dot")[number % 3]},
                    "hovertemplate": HOVER + "%{y:.4f} nats after %{x:,} tokens",
                }
            )
    if not data:
        return None
    values = [value for _, lines in found for curve in lines for _, value in curve.points]
    says = f"{ylabel} by tokens read, {len(data)} curves, from {min(values):.4g} to {max(values):.4g}."
    return Chart(title, says, data, {"xaxis": {"title": {"text": "tokens read"}}, "yaxis": _axis(ylabel, values)})


def _style(labels: dict[str, str], model: str, arm: str) -> dict[str, Any]:
    line, marker = ARMS.get(arm.split(":", maxsplit=1)[0], ARMS[FULL])
    index = list(labels).index(model)
    below = index == 0 and arm == FULL  # what is drawn first shows at the edges of a line that covers it
    return {
        "mode": "lines+markers",
        "line": {"color": _colour(index), "width": 4 if below else 1.8, "dash": line},
        "marker": {"symbol": marker, "size": 11 if below else 8},
    }


def _intervals(values: list[float], intervals: list[tuple[float, float] | None]) -> dict[str, Any]:
    """How far each interval reaches below and above its value."""
    ends = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    above = [high - value for (_, high), value in zip(ends, values, strict=True)]
    below = [value - low for (low, _), value in zip(ends, values, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 3}


def _colour(index: int) -> str:
    return f"var(--line-{index % COLOURS})"


def _faint() -> dict[str, Any]:
    return {"color": "var(--faint)", "width": 1, "dash": "dot"}


def _axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic if the values differ much."""
    low, high = min(values), max(values)
    if low <= 0 or high <= FAR_APART * low:
        return {"title": {"text": title}}
    ticks: dict[str, Any] = {"dtick": "D2"} if high < 300 * low else {"dtick": 1}
    return {"title": {"text": title}, "type": "log", "tickformat": ",~g", **ticks}


def _lengths(lengths: list[int]) -> dict[str, Any]:
    """An axis of lengths, each of them marked, those labelled that have room."""
    shown = labelled(lengths)
    ticks = {"tickvals": lengths, "ticktext": [f"{length:,}" if length in shown else "" for length in lengths]}
    return {"xaxis": {"title": {"text": "length (tokens)"}, "type": "log", **ticks}}


def _trained(results: Results, longest: float, logarithmic: bool = True) -> dict[str, Any]:
    """Lines at the trained lengths that lie within what was measured."""
    trained = sorted({model.trained_length for model in results.models if model.trained_length})
    within = [length for length in trained if length <= longest]
    marks = [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": length, "x1": length, "line": _faint()}
        for length in within
    ]
    labels = [
        {
            "text": "trained length",
            "x": math.log10(length) if logarithmic else length,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11, "color": "var(--quiet)"},
        }
        for length in within
    ]
    return {"shapes": marks, "annotations": labels} if marks else {}


def _interval(row: Row) -> str:
    return "" if row.perplexity_ci95 is None else "95 % interval {:.4g} – {:.4g}".format(*row.perplexity_ci95)


def _numbers(lengths: list[int]) -> str:
    return ", ".join(f"{length:,}" for length in lengths)
