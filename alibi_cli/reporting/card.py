"""Results in the model card of the checkpoint that they were measured of."""

from pathlib import Path
from typing import Any

from alibi_cli.conversion.card_results import METRIC, with_results
from alibi_cli.errors import AlibiError, UsageError, explained
from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.results import ModelFacts, Results
from alibi_cli.evaluation.table_formats import in_markdown, markdown
from alibi_cli.evaluation.tables import perplexity_by_length
from alibi_cli.files.atomic import new_file
from alibi_cli.files.digests import digest_of_model
from alibi_cli.reporting.sections import Section
from alibi_cli.reporting.verdict import of_model

CARD = "README.md"


def write_card(folder: Path, sections: list[Section]) -> Path:
    """Puts the results of a checkpoint, and of what it was compared with, into its card; returns the card. Once or ten times is the same.

    Raises:
        AlibiError: no result is of this checkpoint as it is, or the card cannot be written.
    """
    digest = digest_of_model(folder)
    found = [(section, model) for section in sections for model in section.results.models if model.digest == digest]
    if not found:
        raise UsageError(f"`card`: no result is of {folder} as it is now.", "Measure it with `alibi eval`.")
    path = folder / CARD
    with explained(f"Cannot write {path}"):
        before = _read(path) if path.is_file() else f"# {folder.resolve().name}\n"
        text = "\n\n".join(["## Results", *(_section(section.results, model) for section, model in found)])
        index = {"name": folder.resolve().name, "results": [each for found_in in found for each in _index(*found_in)]}
        after = with_results(before, text, index)
        if after != before:
            with new_file(path) as temporary:
                temporary.write_text(after, encoding="utf-8")
    return path


def _read(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AlibiError(f"{card} is not UTF-8 text (byte {error.start}); results are not added to it.") from None


def _section(results: Results, model: ModelFacts) -> str:
    """The table, what it says, and how to get it again."""
    others = {each.baseline for each in results.contrasts if each.model == model.name}
    chosen = {model.name, *others}
    part = results.model_copy(
        update={
            "models": [each for each in results.models if each.name in chosen],
            "rows": [row for row in results.rows if row.model in chosen],
        }
    )
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    says = "\n".join(f"- {in_markdown(sentence)}" for sentence in of_model(results, model.name))
    command = f"\n\n    {results.command}" if results.command else ""
    return f"{markdown(perplexity_by_length(part))}\n{says}\n\nMeasured with {versions}:{command}"


def _index(section: Section, model: ModelFacts) -> list[dict[str, Any]]:
    """As the Hub's model-index has it."""
    results = section.results
    task = "fill-mask" if results.protocol.masked else "text-generation"
    dataset = {"name": results.text.name, "type": results.text.name, "args": {"sha256": results.text.sha256}}
    rows = [row for row in results.rows if (row.model, row.arm, row.status) == (model.name, FULL, "ok")]
    metrics = [
        {"type": "perplexity", "value": round(row.perplexity or 0.0, 4), "name": METRIC.format(length=row.length)}
        for row in rows
    ]
    return [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}] if metrics else []
