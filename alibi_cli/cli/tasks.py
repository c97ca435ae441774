"""alibi eval --task: which options it refuses, and its table."""

from typing import Any

import typer

from alibi_cli.cli import output
from alibi_cli.errors import EXIT_FAILED, AlibiError, UsageError

ONLY_PERPLEXITY = (
    "baseline",
    "arms",
    "protocol",
    "targets",
    "stride",
    "text",
    "split_on",
    "dataset",
    "text_column",
    "max_documents",
    "max_segments",
    "plot",
    "resume",
    "preset",
)
ONLY_TASKS = ("samples", "seed", "attention", "verbose")
NOTES = {"out_of_range": "beyond its position table", "out_of_memory": "out of memory", "non_finite": "NaN or Inf"}


def check_options(context: typer.Context, task: str | None) -> None:
    """
    Raises:
        AlibiError: an option was given that means nothing with, or without, --task.
    """
    unfit = ONLY_PERPLEXITY if task is not None else ONLY_TASKS
    given = [name for name in unfit if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        reason = "is about perplexity and does not go with --task" if task is not None else "needs --task"
        raise UsageError(f"{names} {reason}.")


def run(json: bool, verbose: bool, **request: Any) -> None:
    """Runs a task and prints its results. verbose: how layers are computed, on stderr.

    request: the fields of `alibi_cli.evaluation.tasks.run.Request`.
    """
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    from alibi_cli.evaluation.processes import launched
    from alibi_cli.evaluation.tasks.run import Request, run_task

    with launched(request["output"]) as processes, output.progress() as update:
        results = run_task(Request(**request), update, processes, output.note if verbose else lambda _: None)
    if json:
        output.print_json(results)
    else:
        _print(results)
    if any(row["status"] in ("out_of_memory", "non_finite") for row in results["rows"]):
        raise typer.Exit(EXIT_FAILED)


def _print(results: dict[str, Any]) -> None:
    task = results["task"]
    title = f"{task['name']}, seed {task['seed']}: share of right answers; guessing gets {task['chance']:.4g}"
    columns = [
        "model",
        "length",
        *(["depth"] if task["depths"] else []),
        "accuracy",
        "95 % interval",
        "items",
        "tokens",
        "note",
    ]
    rows = [_row(row, bool(task["depths"])) for row in results["rows"]]
    output.print_table(title, columns, rows, numeric=columns[1:-1])


def _row(row: dict[str, Any], depths: bool) -> list[str]:
    place = ["all" if row["depth"] is None else f"{row['depth']:.2f}"] if depths else []
    figures = ["–", "–"] if row["ci95"] is None else [f"{row['accuracy']:.3f}", "{:.3f} – {:.3f}".format(*row["ci95"])]
    name = row["model"] if len(row["model"]) <= 40 else f"…{row['model'][-39:]}"
    return [
        name,
        str(row["length"]),
        *place,
        *figures,
        str(row["samples"]),
        f"{row['tokens']:.0f}",
        NOTES.get(row["status"], ""),
    ]
