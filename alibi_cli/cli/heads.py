"""alibi inspect heads"""

from pathlib import Path
from typing import Annotated, Any

import typer

from alibi_cli.cli import options, output
from alibi_cli.cli.plugins import load_plugins

EXAMPLES = """Examples:\n
  alibi inspect heads gpt2\n
  alibi inspect heads ./gpt2-alibi --text book.txt -o heads.png"""
# Key of the JSON: title of the map, how a figure is written, whether its colours are logarithmic.
MAPS = {
    "slopes": ("slope m", "{:.4f}", True),
    "mean_distance": ("mean distance looked back, tokens", "{:.1f}", True),
    "entropy_nats": ("entropy of the attention weights, nats", "{:.2f}", False),
    "first_token_weight": ("weight on the first token", "{:.3f}", False),
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
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of text to look at.")] = 16384,
    length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in a window. Default: the trained length.", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png", help="Draw the maps as well.", show_default=False),
    ] = None,
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """What each head of a model does, converted or not: its slope, how far it looks back, how widely, and its rest on the first token."""
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    load_plugins(plugin)
    from alibi_cli.calibration.report import head_report
    from alibi_cli.evaluation.text import load_text

    with output.progress() as update:
        report = head_report(model, load_text(files=text or ()), tokens, length, revision, update)
    if json:
        output.print_json(report)
    else:
        for title, values, figure, logarithmic in _maps(report):
            output.print_heat_map(title, values, figure, logarithmic)
        output.note(f"{report['tokens']:,} tokens of {report['text']['name']} in windows of {report['window']}")
    if picture is not None:
        from alibi_cli.calibration.plot import draw

        draw(
            picture, report["model"], [(title, values, logarithmic) for title, values, _, logarithmic in _maps(report)]
        )


def _maps(report: dict[str, Any]) -> list[tuple[str, list[list[float]], str, bool]]:
    return [(title, report[key], *how) for key, (title, *how) in MAPS.items() if report[key] is not None]
