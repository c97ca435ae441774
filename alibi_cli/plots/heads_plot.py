"""Heat maps of heads as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alibi_cli.plots.figures import as_it_is, for_print, write_figure


@for_print
def draw(path: Path, title: str, maps: Sequence[tuple[str, Sequence[Sequence[float | None]], bool]]) -> None:
    """Writes one picture with a (layers, heads) map for each (title, values, whether colours are logarithmic); None is left white.

    Raises:
        AlibiError: the file cannot be written, or its ending is not that of a picture.
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    layers, heads = len(maps[0][1]), len(maps[0][1][0])
    size = (max(2.8, 0.22 * heads + 1.4) * len(maps), max(2.6, 0.22 * layers + 1.4))
    figure = Figure(figsize=size, layout="constrained")
    room = int(size[0] * 9)  # characters
    figure.suptitle(as_it_is(title if len(title) <= room else f"…{title[1 - room :]}"), fontsize=11)
    for axes, (name, values, logarithmic) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        shown = np.array(values, dtype=float)  # None becomes NaN
        known = shown[np.isfinite(shown)]
        highest = known.max(initial=0) or 1.0
        lowest = known[known > 0].min(initial=highest) if logarithmic else 0  # zero has no logarithm
        norm: Normalize = LogNorm(lowest, max(highest, 1.01 * lowest)) if logarithmic else Normalize(0, highest)
        image = axes.imshow(np.maximum(shown, lowest), norm=norm, cmap="viridis", aspect="auto")
        axes.set_title(name, fontsize=10)
        axes.set(xlabel="head", ylabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes)
    write_figure(figure, path, dpi=120)
