"""Draws docs/images/alibi.svg: what the bias is, and how far each head looks.

python scripts/draw_alibi.py
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from alibi_cli.slopes import get_slopes

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "alibi.svg"
HEADS, TOKENS, FAR = 8, 10, 2048


def main() -> None:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    distance = np.arange(TOKENS)[:, None] - np.arange(TOKENS)[None]
    left.imshow(np.where(distance >= 0, -distance, np.nan), cmap="viridis")
    for query in range(TOKENS):
        for key in range(query + 1):
            color = "black" if query - key < TOKENS // 3 else "white"
            left.text(
                key, query, str(key - query) if key < query else "0", ha="center", va="center", color=color, fontsize=7
            )
    left.set(xlabel="key", ylabel="query", xticks=[], yticks=[], title="added to every score, × m")
    left.spines[:].set_visible(False)
    places = np.geomspace(1, FAR, 300)
    for head, slope in enumerate(get_slopes(HEADS)):
        shade = matplotlib.colormaps["viridis"](0.85 * head / (HEADS - 1))
        right.plot(places, np.exp(-slope * places), color=shade, linewidth=1.8)
        half = np.log(2) / slope
        right.text(half, 0.5, f"1/{round(1 / slope)}", color=shade, ha="left", va="bottom", fontsize=8)
    right.set(
        xscale="log",
        xlabel="distance in tokens",
        ylabel="weight, relative to distance 0",
        title="eight heads, by their slope m",
    )
    right.set_xticks([1, 8, 64, 512, FAR], ["1", "8", "64", "512", "2,048"])
    right.minorticks_off()
    right.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.hashsalt": "alibi"}):
        figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
