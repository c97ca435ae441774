"""alibi task"""

from typing import Annotated

import typer

from alibi_cli.cli import interrupts, options, output
from alibi_cli.cli.eval_command import BROKEN
from alibi_cli.errors import EXIT_FAILED
from alibi_cli.settings.measuring import TaskSettings

EXAMPLES = """Examples:\n
  alibi task passkey gpt2-alibi --lengths 512:4096\n
  alibi task listops gpt2-alibi gpt2 --samples 200 --output listops.json"""

Verbose = Annotated[bool, typer.Option("--verbose", help="Say which backend --attention auto chooses, and why.")]


@options.takes(TaskSettings)
def command(
    settings: TaskSettings, verbose: Verbose = False, form: options.Format = None, json: options.Json = False
) -> None:
    """Measure accuracy on a generated long-range task at every length, with intervals."""
    from alibi_cli.evaluation.tasks.run_task import run_task

    interrupts.leaves_rows(settings.output)
    with output.progress(remarks=verbose) as watch:
        results = run_task(settings, watch)
    if json:
        output.print_json(results)
    elif form in ("markdown", "csv", "latex"):
        output.print_text(results.to_text(form).rstrip("\n"))
    else:
        output.print_cells(results.table())
    if any(row.status in BROKEN for row in results.rows):
        raise typer.Exit(EXIT_FAILED)
