"""alibi inspect bias"""

from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import output
from alibi_cli.cli.options import takes
from alibi_cli.settings.looking import BiasSettings

EXAMPLES = "Examples:\n\n  alibi inspect bias --heads 8 --length 64\n\n  alibi inspect bias --heads 12 --length 512 -o bias.png"


@takes(BiasSettings, light=True)
def command(
    settings: BiasSettings,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            "--output",
            "-o",
            metavar="FILE.png",
            help="Write a picture instead of drawing in the terminal.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A picture of the bias -m|i-j| of every head, as the share exp(bias) of a key's weight that it leaves."""
    from alibi_cli.plots.bias_plot import draw, lines

    if plot is None:
        for line in lines(settings.heads, settings.length, settings.causal):
            output.print_text(line)
    else:
        draw(plot, settings.heads, settings.length, settings.causal)
