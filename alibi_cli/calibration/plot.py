"""Heat maps of heads as a picture."""

from pathlib import Path

import numpy as np

from alibi_cli.errors import EXIT_USAGE, AlibiError


def draw(path: Path, model: str, maps: list[tuple[str, list[list[float]], bool]]) -> None:
    """Writes one picture with a (layers, heads) map for each (title, values, whether colours are logarithmic).

    Raises:
        AlibiError: the file cannot be written, or its ending is not that of a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    layers, heads = np.shape(maps[0][1])
    figure = Figure(
        figsize=(max(3.2, 0.35 * heads + 1.6) * len(maps), max(2.6, 0.3 * layers + 1.4)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(model if len(model) <= 60 else f"…{model[-59:]}")
    for axes, (title, values, logarithmic) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        shown = np.asarray(values)
        norm = (
            LogNorm(max(shown.min(), 1e-6), max(shown.max(), 2e-6)) if logarithmic else Normalize(0, shown.max() or 1)
        )
        image = axes.imshow(np.maximum(shown, 1e-6), norm=norm, cmap="viridis", aspect="auto")
        axes.set(title=title, xlabel="head", ylabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise AlibiError(f"Cannot write {path}: {error.strerror}.") from None
    except ValueError as error:
        raise AlibiError(f"Cannot draw {path}: {str(error).splitlines()[0]}", exit_code=EXIT_USAGE) from None
