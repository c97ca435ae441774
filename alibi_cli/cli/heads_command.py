"""alibi inspect heads"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.settings.looking import HeadsSettings

if TYPE_CHECKING:
    from alibi_cli.calibration.head_report import HeadReport

EXAMPLES = """Examples:\n
  alibi inspect heads gpt2\n
  alibi inspect heads ./gpt2-alibi --text book.txt --plot heads.png"""
# Field of the report: title of the map, what the heads with the smallest and the largest figures are, whether its colours are logarithmic.
MAPS: dict[str, tuple[str, str, str, bool]] = {
    "mean_distance": ("distance, tokens", "most local", "farthest", True),
    "mean_distance_without_sinks": ("distance, no sinks", "most local", "farthest", True),
    "sink_weight": ("weight on the sinks", "least", "most", False),
    "first_token_weight": ("weight on first token", "least", "most", False),
    "entropy_nats": ("entropy, nats", "sharpest", "most diffuse", False),
    "slopes": ("slope m", "gentlest", "steepest", True),
}


@options.takes(HeadsSettings)
def command(
    settings: HeadsSettings,
    picture: Annotated[
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
    output.check_plot(picture)
    from alibi_cli.calibration.head_report import run_inspect_heads

    with output.progress() as watch:
        report = run_inspect_heads(settings, watch)
    maps = _maps(report)
    if json:
        output.print_json(report)
    else:
        output.print_text(output.printable(f"{report.model}: {_what_was_read(report)}"))
        output.print_heat_maps(maps)
        output.note("Heads are named layer.head. All figures: --json.")
    if picture is not None:
        from alibi_cli.plots.heads_plot import draw

        title = f"{report.model}: {_what_was_read(report)}"
        draw(picture, title, [(each.title, each.values, each.logarithmic) for each in maps])


def _maps(report: "HeadReport") -> list[HeatMap]:
    """Those that say something: without sinks there is nothing to tell apart, and the first token is one of the sinks."""
    left_out = {"first_token_weight"} if report.sinks else {"mean_distance_without_sinks", "sink_weight"}
    return [
        HeatMap(title, getattr(report, key), lowest, highest, logarithmic)
        for key, (title, lowest, highest, logarithmic) in MAPS.items()
        if key not in left_out and getattr(report, key) is not None
    ]


def _what_was_read(report: "HeadReport") -> str:
    window, trained = report.window, report.trained_length
    read = f"{report.tokens:,} tokens of {report.text['name']} in windows of {window:,}"
    return read if trained in (None, window) else f"{read} (trained length {trained:,})"
