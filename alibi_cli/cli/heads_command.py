"""alibi inspect heads"""

from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.settings.looking import HeadsSettings

EXAMPLES = """Examples:\n
  alibi inspect heads gpt2\n
  alibi inspect heads ./gpt2-alibi --text book.txt --plot heads.png"""


@options.takes(HeadsSettings)
def command(
    settings: HeadsSettings,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", "--output", "-o", metavar="FILE.png", help="Write the maps as a picture.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Heat maps of what each head of a model does, converted or not: its slope, how far it looks back, how widely, and its attention sinks.

    The distance without sinks leaves out the first N tokens of a window, on which many heads rest whatever they read. Figures: --json.
    """
    from alibi_cli.calibration.inspect_heads import run_inspect_heads

    with output.progress() as watch:
        report = run_inspect_heads(settings, watch)
    if json:
        output.print_json(report)
    else:
        output.print_text(output.printable(report.title))
        output.print_heat_maps([HeatMap(*each) for each in report.maps()])
        output.note("Heads are named layer.head. All figures: --json.")
    if plot is not None:
        report.plot(plot)
