"""alibi inspect heads"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.names import short_names, short_text
from alibi_cli.settings.looking import HeadsSettings

if TYPE_CHECKING:
    from alibi_cli.calibration.head_report import HeadReport

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
    name = short_names([report.model])[report.model]
    maps = [HeatMap(*each) for each in report.maps()]
    if json:
        output.print_json(report)
    else:
        output.print_text(output.printable(f"{name}: {_what_was_read(report)}"))
        output.print_heat_maps(maps)
        output.note("Heads are named layer.head. All figures: --json.")
    if plot is not None:
        from alibi_cli.plots.heads_plot import draw

        title = f"{name}: {_what_was_read(report)}"
        draw(plot, title, [(each.title, each.values, each.logarithmic) for each in maps])


def _what_was_read(report: "HeadReport") -> str:
    window, trained = report.window, report.trained_length
    read = f"{report.tokens:,} tokens of {short_text(report.text['name'])} in windows of {window:,}"
    return read if trained in (None, window) else f"{read} (trained length {trained:,})"
