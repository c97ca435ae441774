"""alibi eval"""

from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import interrupts, options, output
from alibi_cli.errors import EXIT_FAILED, UsageError
from alibi_cli.settings.measuring import EvaluateSettings

EXAMPLES = """Examples:\n
  alibi eval --lengths 512,1024,2048\n
  alibi eval gpt2-alibi --baseline gpt2 --lengths 512:8192 --output gpt2.json --plot gpt2.png\n
  alibi eval MODEL --lengths 1024,4096 --text book.txt --protocol sliding --stride 256\n
  torchrun --nproc-per-node 8 -m alibi_cli eval MODEL --lengths 4096,32768"""
BROKEN = ("out_of_memory", "non_finite")

Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw perplexity by length: .png, .svg or .pdf.", show_default=False),
]


Task = Annotated[str | None, typer.Option("--task", hidden=True)]  # of 0.1.0


@options.takes(EvaluateSettings)
def command(
    settings: EvaluateSettings,
    plot: Plot = None,
    task: Task = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print tokens, passes, memory and time of every row; score nothing.")
    ] = False,
    preset: options.Preset = None,
    form: options.Format = None,
    json: options.Json = False,
) -> None:
    """Measure perplexity at every length, with intervals."""
    if task is not None:
        raise UsageError("Tasks have a command of their own.", f"alibi task {task} MODEL …")
    from alibi_cli.evaluation.evaluate import run_evaluate
    from alibi_cli.evaluation.tables import contrasts_table, results_table

    if dry_run:
        _print_estimate(settings, form, json)
        return
    interrupts.leaves_rows(settings.output, "`resume` continues from there.")
    with output.progress() as watch:
        results = run_evaluate(settings, watch)
    if json:
        output.print_json(results)
    elif form in ("markdown", "csv", "latex"):
        output.print_text(results.to_text(form).rstrip("\n"))
    else:
        output.print_cells(results_table(results))
        if results.contrasts:
            output.print_text("")
            output.print_cells(contrasts_table(results))
    if plot is not None and not output.SILENT:
        results.plot(plot)
    if any(row.status in BROKEN for row in results.rows):
        raise typer.Exit(EXIT_FAILED)


def _print_estimate(settings: EvaluateSettings, form: options.Format, json: bool) -> None:
    from alibi_cli.evaluation.estimate import estimate_table, run_estimate

    with output.progress() as watch:
        found = run_estimate(settings, watch)
    if json:
        output.print_json(found)
    elif form in ("markdown", "csv", "latex"):
        output.print_text(found.to_text(form).rstrip("\n"))
    else:
        output.print_cells(estimate_table(found))
