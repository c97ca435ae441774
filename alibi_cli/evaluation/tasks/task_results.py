"""What a task found: the JSON of `alibi task`, and its table."""

from typing import Any, Literal

from pydantic import BaseModel

from alibi_cli.evaluation.tables import NOTES, Table
from alibi_cli.names import short_names

SCHEMA_VERSION = 1


class TaskRow(BaseModel):
    """One model at one length and depth (null: all depths together). status: "ok", "out_of_range" (beyond its position embeddings),
    "out_of_memory" or "non_finite". ci95: Wilson's. chance: of guessing. tokens: mean fed, special tokens included. outcomes: 1 or 0 for
    each item."""

    model: str
    length: int
    depth: float | None
    status: str
    accuracy: float | None
    ci95: tuple[float, float] | None
    correct: int | None
    samples: int
    chance: float
    tokens: float
    seconds: float | None
    outcomes: list[int]


class TaskFacts(BaseModel):
    """Which items were asked. depths: empty if the task has none. attention: the backend that computed, null for the models' own."""

    name: str
    lengths: list[int]
    depths: list[float]
    samples: int
    seed: int
    chance: float
    attention: str | None
    device: str
    dtype: str


class TaskModel(BaseModel):
    """Which model was asked."""

    name: str
    model_type: str
    commit: str | None
    digest: str
    converted: bool
    trained_length: int | None


class TaskResults(BaseModel):
    """What `evaluate_task` returns, and the JSON of `alibi task`."""

    schema_version: int = SCHEMA_VERSION
    command: str
    versions: dict[str, str]
    task: TaskFacts
    models: list[TaskModel]
    rows: list[TaskRow] = []

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame

        return DataFrame([row.model_dump(exclude={"outcomes"}) for row in self.rows])

    def table(self) -> Table:
        """One row for each model, length and depth."""
        title = f"{self.task.name}, seed {self.task.seed}: share of right answers; guessing gets {self.task.chance:.4g}"
        depth = ["depth"] if self.task.depths else []
        columns = ["model", "length", *depth, "accuracy", "95 % interval", "items", "tokens", "note"]
        labels = short_names(model.name for model in self.models)
        return Table(title, columns, [_cells(row, labels, bool(depth)) for row in self.rows], columns[1:-1])

    def to_text(self, form: Literal["markdown", "latex", "csv"]) -> str:
        """The table for a document, in Markdown or in LaTeX (booktabs), or the rows as CSV with full names and figures."""
        from alibi_cli.evaluation.table_formats import task_written

        return task_written(self, form)

    def _repr_html_(self) -> str:
        return self.table().html()


def _cells(row: TaskRow, labels: dict[str, str], depths: bool) -> list[str]:
    place = ["all" if row.depth is None else f"{row.depth:.2f}"] if depths else []
    figures = ["–", "–"] if row.ci95 is None else [f"{row.accuracy:.3f}", "{:.3f} – {:.3f}".format(*row.ci95)]
    counts = [str(row.samples), f"{row.tokens:.0f}"]
    return [labels[row.model], str(row.length), *place, *figures, *counts, NOTES.get(row.status, "")]
