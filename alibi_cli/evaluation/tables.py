"""The tables of an evaluation, as cells: printed by the command line, shown by a notebook, written into papers and cards."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from typing import TypeVar

from alibi_cli.evaluation.arm_names import FULL, STREAMING, TRUNCATED
from alibi_cli.evaluation.results import Contrast, Results, Row
from alibi_cli.names import short_names, short_text

Cell = TypeVar("Cell", Row, Contrast)

NOTES = {"out_of_range": "beyond its position embeddings", "out_of_memory": "out of memory", "non_finite": "NaN or Inf"}
DIFFERENCES = "Paired differences in nats per token, on the same tokens"


@dataclass(frozen=True)
class Table:
    """numeric: the columns that are numbers. small: rows that stand below another one and belong to it, such as its intervals."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    numeric: list[str] = field(default_factory=list)
    small: frozenset[int] = frozenset()

    def html(self) -> str:
        def cell(tag: str, text: str, column: str) -> str:
            align = "right" if column in self.numeric else "left"
            return f'<{tag} style="text-align:{align}">{escape(text)}</{tag}>'

        head = "".join(cell("th", column, column) for column in self.columns)
        body = "".join(
            "<tr>" + "".join(cell("td", text, column) for text, column in zip(row, self.columns, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = escape(self.title).replace("\n", "<br>")
        return f'<table><caption style="text-align:left">{caption}</caption><tr>{head}</tr>{body}</table>'


def results_table(results: Results) -> Table:
    """One row for each model, arm and length."""
    labels = labels_of(results)
    columns = ["model", "length", "perplexity", "95 % interval", "bits/byte", "note"]
    return Table(what_was_scored(results), columns, [_row(row, labels) for row in results.rows], columns[1:-1])


def what_was_scored(results: Results) -> str:
    """The title of a table of perplexities."""
    protocol, text = results.protocol, results.text
    detail = {"fixed-target": f", K={protocol.targets}", "sliding": f", S={protocol.stride}"}.get(protocol.name, "")
    kind = "masked-token" if protocol.masked else "next-token"
    scored = next((row for row in results.rows if row.status == "ok"), None)
    tokens = ""
    if scored is not None and scored.scored_set_sha256:
        found = (
            f"{scored.tokens_scored} tokens of {scored.documents_scored} document{'s' * (scored.documents_scored != 1)}"
        )
        tokens = f"\n{found}{_segments(results, scored.model)}, set {scored.scored_set_sha256[:12]}"
    return f"{protocol.name}{detail}: {kind} perplexity on {short_text(text.name)}, sha256 {text.sha256[:12]}{tokens}"


def _segments(results: Results, model: str) -> str:
    """How many were drawn, if not the whole text was scored."""
    facts = next((each for each in results.models if each.name == model), None)
    if facts is None or facts.segments is None:
        return ""
    drawn = f"{facts.segments} of {facts.segments_available} segments"
    return f" in {drawn}, seed {results.protocol.segments_seed}"


def contrasts_table(results: Results) -> Table:
    """One row for each paired difference; a baseline of all of them stands in the title, which leaves room for the verdicts."""
    labels = labels_of(results)
    baselines = {each.baseline for each in results.contrasts if each.model != each.baseline}
    only = baselines.pop() if len(baselines) == 1 else None
    title = DIFFERENCES if only is None else f"{DIFFERENCES}; baseline: {labels[only]}"
    columns = ["model", "length", "against", "delta NLL", "95 % interval", "verdict"]
    return Table(title, columns, [_contrast(each, labels, only) for each in results.contrasts], columns[3:5])


def perplexity_by_length(results: Results) -> Table:
    """One row for each model and arm, one column for each length, the intervals below: a table for a paper or a card."""
    labels = labels_of(results)

    def cells(row: Row) -> tuple[str, str]:
        if row.perplexity is None:
            return "–", NOTES.get(row.status, "")
        return perplexity(row.perplexity), _perplexities(row)

    rows = _by_length(results.rows, lambda row: (named(labels, row.model, row.arm),), cells)
    scored = what_was_scored(results).replace("\n", "; ")
    title = ". ".join([scored, _below_figures(results), *_arms(results.rows)]) + "."
    return _wide(title, ["model"], results, rows)


def differences_by_length(results: Results) -> Table:
    """The same of the paired differences from baselines."""
    labels = labels_of(results)

    def key(contrast: Contrast) -> tuple[str, str]:
        return labels[contrast.model], named(labels, contrast.baseline, contrast.baseline_arm)

    others = [each for each in results.contrasts if each.model != each.baseline]
    rows = _by_length(others, key, lambda each: (f"{each.delta_nll:+.4f}", _range(each.ci95, "+.4f")))
    title = f"{DIFFERENCES}; below zero is better. {_below_figures(results)}."
    return _wide(title, ["model", "against"], results, rows)


def _below_figures(results: Results) -> str:
    if results.few_documents == 1:
        return "It is of one document, so there is no interval"
    few = "" if results.few_documents is None else "; of so few documents, it is rough"
    return f"Below each figure: its 95 % interval, bootstrap over documents{few}"


def _arms(rows: Iterable[Row]) -> list[str]:
    """What each arm does, at one length or at several."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if says := what_an_arm_does(row):
            found.setdefault(row.arm, {})[says] = None
    return [f"{arm}: {', '.join(says)}" for arm, says in found.items()]


def _by_length(
    found: Iterable[Cell], key: Callable[[Cell], tuple[str, ...]], cells: Callable[[Cell], tuple[str, str]]
) -> dict[tuple[str, ...], dict[int, tuple[str, str]]]:
    rows: dict[tuple[str, ...], dict[int, tuple[str, str]]] = {}
    for each in found:
        rows.setdefault(key(each), {})[each.length] = cells(each)
    return rows


def _wide(
    title: str, first: list[str], results: Results, rows: dict[tuple[str, ...], dict[int, tuple[str, str]]]
) -> Table:
    lengths = sorted({row.length for row in results.rows})
    lines, small = [], set()
    for key, by_length in rows.items():
        figures, ranges = zip(*(by_length.get(length, ("", "")) for length in lengths), strict=True)
        lines.append([*key, *figures])
        if any(ranges):
            small.add(len(lines))
            lines.append([*[""] * len(key), *ranges])
    columns = [f"{length:,}" for length in lengths]
    return Table(title, [*first, *columns], lines, columns, frozenset(small))


def perplexity(value: float) -> str:
    """With as many decimals as anybody reads."""
    return f"{value:.3f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def _perplexities(row: Row) -> str:
    return "" if row.perplexity_ci95 is None else " – ".join(map(perplexity, row.perplexity_ci95))


def _range(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} – {interval[1]:{form}}"


def labels_of(results: Results) -> dict[str, str]:
    """{model: short name, unique among the results}"""
    return short_names(model.name for model in results.models)


def _row(row: Row, labels: dict[str, str]) -> list[str]:
    note = NOTES.get(row.status, what_an_arm_does(row))
    if (first := row.first_non_finite) is not None:
        note += f", first at token {first.position} ({first.text!r}) of {first.document}"
    name = named(labels, row.model, row.arm)
    if row.perplexity is None:
        return [name, str(row.length), *["–"] * 3, note]
    bits = "–" if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}"
    return [name, str(row.length), perplexity(row.perplexity), _perplexities(row) or "–", bits, note]


def _contrast(contrast: Contrast, labels: dict[str, str], only: str | None) -> list[str]:
    if contrast.baseline == contrast.model:
        against = f"itself at {contrast.baseline_length}"
    elif contrast.baseline == only:
        against = "baseline" if contrast.baseline_arm == FULL else contrast.baseline_arm
    else:
        against = named(labels, contrast.baseline, contrast.baseline_arm)
    figures = [f"{contrast.delta_nll:+.4f}", _range(contrast.ci95, "+.4f") or "–", contrast.verdict]
    return [labels[contrast.model], str(contrast.length), against, *figures]


def what_an_arm_does(row: Row) -> str:
    """At its length; nothing of a model itself."""
    if row.arm == TRUNCATED:
        return f"last {row.fed_length} tokens"
    found = row.arm_settings or {}
    if "factor" in found:
        return f"factor {found['factor']:g}"
    if not found.get("sinks"):
        return f"latest {found['window']:g} tokens" if found else ""
    moved = " moved" if row.arm.startswith(STREAMING) else ""
    return f"latest {found['window']:g}, first {found['sinks']:g}{moved}"  # short: the column is narrow on 80 columns


def named(labels: dict[str, str], model: str, arm: str) -> str:
    """As a baseline is named."""
    return labels[model] + ("" if arm == FULL else f":{arm}")
