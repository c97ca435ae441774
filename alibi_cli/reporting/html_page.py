"""One self-contained page: verdicts in words, charts with their figures as tables, and what it takes to repeat them.

Its content-security policy names the two scripts that it holds by their digests and lets nothing be fetched.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError, explained
from alibi_cli.evaluation.results import Results
from alibi_cli.evaluation.tables import Table, contrasts_table, labels_of, results_table
from alibi_cli.files.atomic import new_file
from alibi_cli.names import short_names
from alibi_cli.reporting import charts, heat_maps
from alibi_cli.reporting.charts import Chart
from alibi_cli.reporting.checkpoints import Checkpoint, training_curves
from alibi_cli.reporting.inputs import Inputs
from alibi_cli.reporting.sections import Section
from alibi_cli.version import __version__

FOLDER = Path(__file__).parent / "page"
GENERATOR = 'name="generator" content="alibi-cli'
SCRIPTS = ("plotly-cartesian.min.js", "page.js")


@dataclass(frozen=True)
class Part:
    """A heading with charts and tables below it. note: a sentence between them."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    note: str = ""


def write_page(
    path: Path, inputs: Inputs, sections: list[Section], checkpoints: list[Checkpoint], command: str
) -> None:
    """
    Raises:
        AlibiError: the page cannot be written, or another one has its name.
    """
    with explained(f"Cannot write {path}"):
        if path.exists() and GENERATOR.encode() not in path.read_bytes()[:4096]:
            raise UsageError(f"{path} exists and is no report.", "Choose another `output`.")
        with new_file(path) as temporary:
            temporary.write_text(render(inputs, sections, checkpoints, command), encoding="utf-8")


def render(inputs: Inputs, sections: list[Section], checkpoints: list[Checkpoint], command: str) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    scripts = [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["chart"] = lambda chart: Markup(_json({"data": chart.data, "layout": chart.layout}))
    return environment.get_template("page.html.jinja").render(
        title=_title(inputs),
        version=__version__,
        policy=" ".join(f"'sha256-{digest}'" for digest in digests),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        sections=[(section, _measured(section.results), labels_of(section.results)) for section in sections],
        others=[part for part in _others(inputs, checkpoints) if part.charts or part.tables or part.note],
        repeat=[part for section in sections for part in _repeat(section.results)],
        sources=_sources(inputs),
        command=command,
    )


def _json(content: Any) -> str:
    """JSON that can stand in a script element, whatever names it holds."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _title(inputs: Inputs) -> str:
    facts = [model.name for _, run in inputs.runs for model in run.models]
    facts += [model.name for _, task in inputs.tasks for model in task.models]
    labels = list(short_names(facts).values())
    named = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    return named or "Checkpoints"


def _measured(results: Results) -> list[Part]:
    parts = [
        ("Perplexity by length", charts.perplexity(results), results_table(results)),
        ("NLL by position", charts.positions(results), None),
        ("Paired differences", charts.differences(results), contrasts_table(results) if results.contrasts else None),
    ]
    return [
        Part(title, [chart] if chart else [], [table] if table else [])
        for title, chart, table in parts
        if chart or table
    ]


def _others(inputs: Inputs, checkpoints: list[Checkpoint]) -> Iterator[Part]:
    for _, task in inputs.tasks:
        note = "Questions are generated for each tokenizer, so that they fill the length in its own tokens."
        yield Part(f"Task {task.task.name}", charts.accuracy(task), [task.table()], note)
    labels = short_names(each.name for each in checkpoints)
    maps = [heat_maps.slopes(labels[each.name], each.slopes) for each in checkpoints if each.slopes]
    gone = [f"{each.name} is not shown: {each.missing}." for each in checkpoints if each.missing]
    yield Part("Slopes", maps, note=" ".join(gone))
    yield Part("What the heads do", [chart for _, report in inputs.heads for chart in heat_maps.heads(report)])
    learned = [(labels[each.name], each.calibration) for each in checkpoints]
    calibration = charts.curves("Calibration", learned, "KL to the original (nats)")
    trained = [(labels[each.name], each.training) for each in checkpoints]
    trained += [(short_names([each.output])[each.output], training_curves(each.losses)) for _, each in inputs.trainings]
    training = charts.curves("Training", trained, "loss (nats per token)")
    yield Part("Calibration and training", [chart for chart in (calibration, training) if chart])


def _repeat(results: Results) -> Iterator[Part]:
    protocol, text = results.protocol, results.text
    facts = {
        "command": results.command or "not recorded",
        "versions": ", ".join(f"{name} {number}" for name, number in results.versions.items()),
        "text": f"{text.name}, {text.documents:,} documents, {text.bytes:,} bytes, sha256 {text.sha256}",
        "protocol": ", ".join(f"{key} {value}" for key, value in protocol.model_dump().items() if value is not None),
    }
    yield Part("How it was measured", tables=[Table("", ["", ""], [[key, value] for key, value in facts.items()])])
    columns = [
        "model",
        "type",
        "commit",
        "dtype",
        "attention",
        "trained length",
        "sha256 of the model",
        "of the tokens",
    ]
    rows = [
        [
            model.name,
            model.model_type,
            model.commit or "–",
            model.dtype,
            model.engine or model.attention,
            f"{model.trained_length:,}" if model.trained_length else "–",
            model.digest,
            model.tokens_sha256,
        ]
        for model in results.models
    ]
    yield Part("Models", tables=[Table("", columns, rows, ["trained length"])])


def _sources(inputs: Inputs) -> list[str]:
    named = [*inputs.runs, *inputs.tasks, *inputs.heads, *inputs.trainings]
    return [*dict.fromkeys(name for name, _ in named), *map(str, inputs.folders)]
