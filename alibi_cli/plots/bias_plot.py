"""Pictures of ALiBi's bias: a PNG, or shades of grey in the terminal."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alibi_cli.plots.figures import for_print, write_figure
from alibi_cli.slopes import get_slopes

SHADES = " .:-=+*#%@"
TERMINAL_CELLS = 32  # the picture of one head is at most so many cells wide


def weights(slope: float, length: int, causal: bool, cells: int) -> np.ndarray:
    """(cells, cells) exp(-m|i - j|) at evenly spaced queries (rows) and keys (columns), 0 where a causal mask hides the key."""
    places = np.linspace(0, length - 1, cells)
    distance = places[:, None] - places[None, :]
    shares = np.exp(-slope * np.abs(distance))
    return np.where(distance >= 0, shares, 0.0) if causal else shares


def lines(heads: int, length: int, causal: bool) -> Iterator[str]:
    """The picture of every head, one under the other; dark is a key that keeps its weight."""
    cells = min(length, TERMINAL_CELLS)
    for head, slope in enumerate(get_slopes(heads)):
        far = math.log(100) / slope
        yield f"head {head}, slope {slope:.6g}: weight 1/100 at distance {far:.0f} ({length} tokens; rows queries, columns keys)"
        for row in weights(slope, length, causal, cells):
            yield "".join(SHADES[math.ceil(share * (len(SHADES) - 1))] * 2 for share in row)
        yield ""


@for_print
def draw(path: Path, heads: int, length: int, causal: bool) -> None:
    """Writes a picture of all heads.

    Raises:
        AlibiError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(heads))
    rows = math.ceil(heads / columns)
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[heads:]:
        axis.axis("off")
    for head, (slope, axis) in enumerate(zip(get_slopes(heads), axes.flat, strict=False)):
        image = axis.imshow(
            weights(slope, length, causal, min(length, 256)),
            cmap="magma",
            vmin=0,
            vmax=1,
            extent=(0, length, length, 0),
        )
        axis.set_title(f"head {head}: m = {slope:.4g}", fontsize=8)
        axis.tick_params(labelsize=6)
    figure.supxlabel("key", fontsize=9)
    figure.supylabel("query", fontsize=9)
    figure.colorbar(image, ax=axes, label="exp(-m|i-j|)", shrink=0.6)
    write_figure(figure, path, dpi=120)
