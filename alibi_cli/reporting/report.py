"""The verb `report`: results that lie there already, side by side where they are comparable, as one page and in a model card."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from alibi_cli.errors import UsageError
from alibi_cli.evaluation.table_formats import written
from alibi_cli.evaluation.tables import Table, contrasts_table, results_table
from alibi_cli.evaluation.tasks.task_results import TaskResults
from alibi_cli.progress import Watch, steps
from alibi_cli.reporting.card import write_card
from alibi_cli.reporting.checkpoints import look_into
from alibi_cli.reporting.html_page import write_page
from alibi_cli.reporting.inputs import read_inputs
from alibi_cli.reporting.sections import Section, make_sections
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.presets import settings_of
from alibi_cli.settings.reporting import ReportSettings


class Report(BaseModel):
    """What `report` returns, and the JSON of `alibi report`. output, card: the files that were written. sections: figures that are
    comparable, and what they say. tasks: as they were given."""

    output: str | None
    card: str | None
    sections: list[Section]
    tasks: list[TaskResults]

    def tables(self) -> list[Table]:
        """Of every section, and of every task."""
        found = []
        for section in self.sections:
            found.append(results_table(section.results))
            found += [contrasts_table(section.results)] if section.results.contrasts else []
        return [*found, *(task.table() for task in self.tasks)]

    def to_text(self, form: Literal["markdown", "latex", "csv"]) -> str:
        """All sections, and then all tasks, as `Results.to_text` and `TaskResults.to_text` write one.

        Raises:
            UsageError: CSV of both, or of several tasks, whose lines have other fields.
        """
        parts = [written([section.results for section in self.sections], form)] if self.sections else []
        parts += [task.to_text(form) for task in self.tasks]
        if form == "csv" and len(parts) > 1:
            raise UsageError("Perplexities and tasks are CSV of different fields.", "Report each file for itself.")
        return "\n".join(parts)


@takes_settings(ReportSettings)
def report(results: Any, *, progress: Watch | None = None, **settings: Any) -> Report:
    """A page, or a section of a model card, from results; models of different runs stand side by side where their tokens are the same.

    Args:
        results: one or several of: a results file of `alibi eval` or `alibi task`, the JSON of `alibi inspect heads` or `alibi train`, the
            folder of a checkpoint, or what `evaluate`, `evaluate_task`, `inspect_heads` or `train` returned.
        progress: is called with each `Progress`.
        settings: see `ReportSettings`.

    Raises:
        AlibiError: a file that cannot be read or written, a baseline that was not measured, a card of something that was not measured.
    """
    several = isinstance(results, Sequence) and not isinstance(results, str)
    given = {"results": tuple(results) if several else (results,), **settings}
    return run_report(settings_of(ReportSettings, given), progress)


def run_report(settings: ReportSettings, progress: Watch | None = None) -> Report:
    """`report`, by settings."""
    update = steps(progress)
    update("Reading", 0, 0)
    inputs = read_inputs(settings.results)
    sections = make_sections(inputs.runs, settings.baseline)
    if settings.card is not None:
        update(f"Comparing {settings.card} with what was measured", 0, 0)
    card = None if settings.card is None else str(write_card(settings.card, sections))
    if settings.output is not None:
        models = [model for _, run in inputs.runs for model in run.models]
        checkpoints = look_into(models, inputs.folders, update)
        write_page(settings.output, inputs, sections, checkpoints, settings.command)
    output = None if settings.output is None else str(settings.output)
    return Report(output=output, card=card, sections=sections, tasks=[task for _, task in inputs.tasks])
