"""alibi inspect bias"""

from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import output

EXAMPLES = "Examples:\n\n  alibi inspect bias --heads 8 --length 64\n\n  alibi inspect bias --heads 12 --length 512 -o bias.png"


def command(
    heads: Annotated[int, typer.Option(min=1, max=256, help="Number of attention heads.")] = 8,
    length: Annotated[int, typer.Option(min=1, max=65536, help="Number of tokens.")] = 64,
    causal: Annotated[
        bool, typer.Option("--causal/--symmetric", help="Decoders see the past alone; encoders both sides.")
    ] = True,
    picture: Annotated[
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
    output.check_plot(picture)
    from alibi_cli.plots.bias_plot import draw, lines

    if picture is None:
        for line in lines(heads, length, causal):
            output.print_text(line)
    else:
        draw(picture, heads, length, causal)
