"""The tables of an evaluation, as cells: printed by the command line, shown by a notebook."""

from dataclasses import dataclass, field
from html import escape

from alibi_cli.evaluation.arms import FULL, TRUNCATED
from alibi_cli.evaluation.estimate import Estimate, RowEstimate
from alibi_cli.evaluation.results import Contrast, Results, Row
from alibi_cli.time_left import duration

NOTES = {"out_of_range": "beyond its position table", "out_of_memory": "out of memory", "non_finite": "NaN or Inf"}


@dataclass(frozen=True)
class Table:
    """numeric: the columns that are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    numeric: list[str] = field(default_factory=list)

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
    protocol, text = results.protocol, results.text
    detail = {"fixed-target": f", K={protocol.targets}", "sliding": f", S={protocol.stride}"}.get(protocol.name, "")
    kind = "masked-token" if protocol.masked else "next-token"
    scored = next((row for row in results.rows if row.status == "ok"), None)
    tokens = ""
    if scored is not None and scored.scored_set_sha256:
        found = f"{scored.tokens_scored} tokens of {scored.documents_scored} documents"
        tokens = f"\n{found}, set {scored.scored_set_sha256[:12]}"
    title = f"{protocol.name}{detail}: {kind} perplexity on {text.name}, sha256 {text.sha256[:12]}{tokens}"
    columns = ["model", "length", "perplexity", "95 % interval", "bits/byte", "tokens", "note"]
    return Table(title, columns, [_row(row) for row in results.rows], columns[1:-1])


def contrasts_table(results: Results) -> Table:
    """One row for each paired difference."""
    columns = ["model", "length", "against", "delta NLL", "95 % interval", "verdict"]
    title = "Paired differences in nats per token, on the same tokens"
    return Table(title, columns, [_contrast(contrast) for contrast in results.contrasts], columns[3:5])


def estimate_table(estimate: Estimate) -> Table:
    """One row for each row that the evaluation is going to have."""
    columns = ["model", "length", "passes", "tokens", "memory", "time", "note"]
    total = f"about {duration(estimate.seconds)} on {estimate.device}, without loading"
    speed = f"{estimate.operations_per_second / 1e9:,.0f} billion operations a second"
    assumed = f"at {estimate.share:.0%} of the speed of its matrix products, {speed}"
    rows = [_estimate(row) for row in estimate.rows]
    return Table(f"{estimate.tokens:,} tokens, {total}\n({assumed})", columns, rows, columns[1:-1])


def _estimate(row: RowEstimate) -> list[str]:
    name, memory = _named(row.model, row.arm), f"{row.peak_bytes / 1e9:.2f} GB"
    if row.same_as is not None:
        return [name, str(row.length), *["–"] * 4, f"the figures at {row.same_as}"]
    note = "" if row.fits else "more memory than is free"
    figures = [f"{row.windows:,}", f"{row.tokens:,}", memory, duration(row.seconds or 0.0)]
    return [name, str(row.length), *figures, note]


def _row(row: Row) -> list[str]:
    note = NOTES.get(row.status, _what_it_does(row))
    if (first := row.first_non_finite) is not None:
        note += f", first at token {first.position} ({first.text!r}) of {first.document}"
    name = _named(row.model, row.arm)
    if row.perplexity is None:
        return [name, str(row.length), *["–"] * 4, note]
    interval = "–" if row.perplexity_ci95 is None else f"{row.perplexity_ci95[0]:.3f} – {row.perplexity_ci95[1]:.3f}"
    bits = "–" if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}"
    return [name, str(row.length), f"{row.perplexity:.3f}", interval, bits, str(row.tokens_scored), note]


def _contrast(contrast: Contrast) -> list[str]:
    if contrast.baseline == contrast.model:
        against = f"itself at {contrast.baseline_length}"
    else:
        against = _named(contrast.baseline, contrast.baseline_arm)
    interval = "–" if contrast.ci95 is None else f"{contrast.ci95[0]:+.4f} – {contrast.ci95[1]:+.4f}"
    figures = [f"{contrast.delta_nll:+.4f}", interval, contrast.verdict]
    return [short(contrast.model), str(contrast.length), against, *figures]


def _what_it_does(row: Row) -> str:
    """What an arm does at this length."""
    if row.arm == TRUNCATED:
        return f"the last {row.fed_length} tokens"
    found = row.arm_settings or {}
    if "factor" in found:
        return f"factor {found['factor']:g}"
    sinks = f" and the first {found['sinks']:g}" if found.get("sinks") else ""
    return f"the latest {found['window']:g} tokens{sinks}" if found else ""


def _named(model: str, arm: str) -> str:
    """As a baseline is named."""
    return short(model) + ("" if arm == FULL else f":{arm}")


def short(name: str) -> str:
    """The end of a name that is too long for a table."""
    return name if len(name) <= 40 else f"…{name[-39:]}"
