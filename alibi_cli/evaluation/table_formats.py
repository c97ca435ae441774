"""Tables as Markdown, as LaTeX with booktabs, and rows as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from alibi_cli.evaluation.results import Results
from alibi_cli.evaluation.tables import (
    Table,
    contrasts_table,
    differences_by_length,
    perplexity_by_length,
    results_table,
)
from alibi_cli.evaluation.tasks.task_results import TaskResults

SIGNED = re.compile(r"(?<![\w.])[+−-]\d[\d.,]*")
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "…": r"\ldots{}",
    "[": "{[}",  # after a line's end it would be a distance
    "]": "{]}",
}
ROW_FIELDS = (
    "model",
    "arm",
    "length",
    "status",
    "perplexity",
    "perplexity_low",
    "perplexity_high",
    "nll",
    "nll_low",
    "nll_high",
    "bits_per_byte",
    "tokens_scored",
    "documents_scored",
    "protocol",
    "text",
    "scored_set_sha256",
)
TASK_FIELDS = (
    "model",
    "task",
    "length",
    "depth",
    "status",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "correct",
    "samples",
    "chance",
    "tokens",
)


def markdown(table: Table) -> str:
    """A title and a table, as GitHub and the Hub show them."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rules = ["---:" if column in table.numeric else "---" for column in table.columns]
    lines = [line(map(in_markdown, table.columns)), line(rules)]
    for index, row in enumerate(table.rows):
        cells = map(in_markdown, row)
        lines.append(line(f"<sub>{cell}</sub>" if index in table.small and cell else cell for cell in cells))
    return "\n".join([in_markdown(table.title), "", *lines, ""])


def in_markdown(text: str) -> str:
    """Text as it is, in one line."""
    escaped = re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)
    return " ".join(escaped.split())


def latex(table: Table, label: str) -> str:
    r"""A floating table for a document that says \usepackage{booktabs}."""
    alignment = "".join("r" if column in table.numeric else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(' '.join(table.title.split()))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(_latex, table.columns)) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        cells = [rf"{{\scriptsize {_latex(cell)}}}" if index in table.small and cell else _latex(cell) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex(text: str) -> str:
    """Text as it is, signed numbers with a minus of the right width."""
    parts, end = [], 0
    for number in SIGNED.finditer(text):
        parts += [_escaped(text[end : number.start()]), f"${number[0].replace('−', '-')}$"]
        end = number.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def rows_csv(runs: Iterable[Results]) -> str:
    """One line for each row of the runs, with full names and figures."""
    rows = []
    for results in runs:
        same = {"protocol": results.protocol.name, "text": results.text.name}
        for row in results.rows:
            ranges = {**_ends("nll", row.ci95), **_ends("perplexity", row.perplexity_ci95)}
            rows.append({**row.model_dump(), **ranges, **same})
    return as_csv(ROW_FIELDS, rows)


def as_csv(fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """A header and a line for each row, of these fields alone."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float | str]:
    low, high = interval or ("", "")
    return {f"{name}_low": low, f"{name}_high": high}


def task_written(results: TaskResults, form: str) -> str:
    """The table of a task. form: as for `written`."""
    if form == "csv":
        rows = [{**row.model_dump(), **_ends("accuracy", row.ci95), "task": results.task.name} for row in results.rows]
        return as_csv(TASK_FIELDS, rows)
    return latex(results.table(), results.task.name) if form == "latex" else markdown(results.table())


def written(runs: list[Results], form: str) -> str:
    """All tables of some runs. form: "markdown", "latex" or "csv"."""
    if form == "csv":
        return rows_csv(runs)
    parts = []
    for index, results in enumerate(runs, 1):
        if form == "latex":
            number = f"-{index}" if len(runs) > 1 else ""
            parts.append(latex(perplexity_by_length(results), f"perplexity{number}"))
            if any(each.model != each.baseline for each in results.contrasts):
                parts.append(latex(differences_by_length(results), f"differences{number}"))
        else:
            parts += [markdown(results_table(results))]
            parts += [markdown(contrasts_table(results))] if results.contrasts else []
    return "\n".join(parts)
