"""alibi inspect heads"""

from pathlib import Path
from typing import Annotated, Any

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.cli.plugins import load_plugins

EXAMPLES = """Examples:\n
  alibi inspect heads gpt2\n
  alibi inspect heads ./gpt2-alibi --text book.txt --plot heads.png"""
# Key of the JSON: title of the map, what the heads with the smallest and the largest figures are, whether its colours are logarithmic.
MAPS: dict[str, tuple[str, str, str, bool]] = {
    "mean_distance": ("distance, tokens", "most local", "farthest", True),
    "mean_distance_without_sinks": ("distance, no sinks", "most local", "farthest", True),
    "sink_weight": ("weight on the sinks", "least", "most", False),
    "first_token_weight": ("weight on first token", "least", "most", False),
    "entropy_nats": ("entropy, nats", "sharpest", "most diffuse", False),
    "slopes": ("slope m", "gentlest", "steepest", True),
}


def command(
    model: options.Model,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Look at the heads on this text; repeatable. Default: the embedded text.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of text to look at, two windows at least.")] = 8192,
    length: Annotated[
        int | None,
        typer.Option(
            min=2, help="Tokens in a window. Default: the trained length, but at most 1,024.", show_default=False
        ),
    ] = None,
    sinks: Annotated[
        int, typer.Option(min=0, metavar="N", help="First tokens of a window that count as attention sinks.")
    ] = 4,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot", "--output", "-o", metavar="FILE.png", help="Write the maps as a picture.", show_default=False
        ),
    ] = None,
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Heat maps of what each head of a model does, converted or not: its slope, how far it looks back, how widely, and its attention sinks.

    The distance without sinks leaves out the first N tokens of a window, on which many heads rest whatever they read. Figures: --json.
    """
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    load_plugins(plugin)
    from alibi_cli.calibration.report import head_report
    from alibi_cli.evaluation.text import load_text

    with output.progress() as update:
        report = head_report(model, load_text(files=text or ()), tokens, length, revision, update, sinks)
    maps = _maps(report)
    if json:
        output.print_json(report)
    else:
        output.print_text(output.printable(f"{report['model']}: {_what_was_read(report)}"))
        output.print_heat_maps(maps)
        output.note("Heads are named layer.head. All figures: --json.")
    if picture is not None:
        from alibi_cli.calibration.plot import draw

        draw(
            picture,
            f"{report['model']}: {_what_was_read(report)}",
            [(each.title, each.values, each.logarithmic) for each in maps],
        )


def _maps(report: dict[str, Any]) -> list[HeatMap]:
    """Those that say something: without sinks there is nothing to tell apart, and the first token is one of the sinks."""
    left_out = {"first_token_weight"} if report["sinks"] else {"mean_distance_without_sinks", "sink_weight"}
    return [
        HeatMap(title, report[key], lowest, highest, logarithmic)
        for key, (title, lowest, highest, logarithmic) in MAPS.items()
        if key not in left_out and report[key] is not None
    ]


def _what_was_read(report: dict[str, Any]) -> str:
    window, trained = report["window"], report["trained_length"]
    read = f"{report['tokens']:,} tokens of {report['text']['name']} in windows of {window:,}"
    return read if trained in (None, window) else f"{read} (trained length {trained:,})"
