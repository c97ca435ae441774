"""The study in one table and one picture, for README.md: perplexity by context, from the committed sums alone.

A row is there if its arm has been measured, a cell if all of the arm's documents reach so far.
"""

import math
from pathlib import Path
from typing import Any

from benchmarks.real_model.arms import TRAINED_LENGTH
from benchmarks.real_model.report import FAR, HORIZON_BASELINE, NEAR, NONE, ORIGINAL, STEP, WINDOW, Study, table

BEGIN, END = "<!-- headline: begin (python -m benchmarks.real_model --readme README.md) -->", "<!-- headline: end -->"
STREAMING, KEPT, HORIZON_KEPT = "streaming", "add-reach", "horizon-add-reach"
# {arm: (what the reader calls it, colour of Okabe and Ito, dashes)}
ROWS: dict[str, tuple[str, str, Any]] = {
    ORIGINAL: ("original", "#000000", "-"),
    WINDOW: ("original, window of 8,192 with 4 sinks", "#E69F00", "--"),
    STREAMING: ("original, StreamingLLM's window", "#009E73", "-."),
    KEPT: ("converted, rotation kept", "#0072B2", "-"),
}
HORIZON = (2048, 3072)


def block(study: Study, figure: str) -> str:
    """Markdown: the table, how a window without a conversion compares, and the picture."""
    found = {arm: [_perplexity(study, arm, *band) for band in (NEAR, *FAR)] for arm in ROWS}
    rows = [
        [f"**{ROWS[arm][0]}**" if arm == KEPT else ROWS[arm][0], *cells] for arm, cells in found.items() if any(cells)
    ]
    columns = [index for index in range(len(FAR) + 1) if any(cells[index] for cells in found.values())]
    head = ["within 8,192", *(f"{start:,}–{end:,}" for start, end in FAR)]
    shown = [[row[0], *(row[1 + index] or NONE for index in columns)] for row in rows]
    parts = [
        "Perplexity of SmolLM2-135M-Instruct by the number of tokens before the one that is predicted, "
        f"{_documents(study)} documents of prose and code; its trained length is {TRAINED_LENGTH:,}:",
        table(["", *(head[index] for index in columns)], shown),
        _against_windows(study),
        f"![Perplexity by context: the original, a window, and the converted model]({figure})",
    ]
    return "\n\n".join(part for part in parts if part)


def _perplexity(study: Study, arm: str, start: int, end: int) -> str:
    mean = study.mean(arm, start, end)
    return "" if mean is None else f"{math.exp(mean):.2f}"


def _documents(study: Study) -> int:
    return min(len(study.sums[arm].of) for arm in ROWS if arm in study.sums)


def _against_windows(study: Study) -> str:
    """The strongest baselines that need no conversion, where they have been measured."""
    found = study.difference(HORIZON_KEPT, HORIZON_BASELINE, *HORIZON)
    if found is None:
        return ""
    text = (
        "The baseline to beat needs no conversion: a window of recent tokens with attention sinks. With a window of 1,024 tokens, its "
        f"loss and that of a conversion with `--horizon 1024` differ by {found.mean:+.4f} nats between {HORIZON[0]:,} and "
        f"{HORIZON[1]:,} tokens (95 % interval {found.low:+.4f} to {found.high:+.4f}; below zero, the conversion is better)."
    )
    for start, end in reversed(FAR):
        if (far := study.difference(KEPT, STREAMING, start, end)) is not None:
            return (
                f"{text} With one of {TRAINED_LENGTH:,}, whose first tokens are moved up to it as in StreamingLLM, it is "
                f"{far.mean:+.4f} nats "
                f"({far.low:+.4f} to {far.high:+.4f}) between {start:,} and {end:,}."
            )
    return text


def into_readme(page: Path, figure: Path) -> None:
    """Replaces the marked block of the page and draws the picture, which the page must see from where it is."""
    study = Study()
    text = page.read_text(encoding="utf-8")
    shown = figure.resolve().relative_to(page.resolve().parent).as_posix()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{block(study, shown)}\n\n{END}{after}", encoding="utf-8")
    draw(study, figure)


def draw(study: Study, path: Path) -> None:
    """Perplexity in steps of 1,024 tokens of context, one line an arm, its name at its end."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(TRAINED_LENGTH, color="0.6", linewidth=0.8, linestyle=":")
    ends: list[tuple[float, float, str, str]] = []
    for arm, (words, color, dashes) in ROWS.items():
        points = [
            (start + STEP / 2, math.exp(mean))
            for start in range(0, FAR[-1][1], STEP)
            if (mean := study.mean(arm, start, start + STEP)) is not None
        ]
        if points:
            width = 4.5 - len(ends)  # what lies beneath is seen
            axes.plot(*zip(*points, strict=True), color=color, linestyle=dashes, linewidth=width)
            ends.append((*points[-1], words, color))
    axes.text(
        TRAINED_LENGTH - 80, axes.get_ylim()[1], "trained length", ha="right", va="top", color="0.4", fontsize="small"
    )
    axes.set(yscale="log", xlabel="tokens before the one that is predicted", ylabel="perplexity")
    ticks = [8, 10, 15, 20, 30, 50, 100, 200, 500, 1000]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=4)  # room for a name
    axes.set_xlim(0, max(x for x, *_ in ends) * 1.45)
    places = range(0, int(max(x for x, *_ in ends)) + STEP, 2048)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()
    above = -math.inf
    last = max(x for x, *_ in ends)
    for x, y, words, color in sorted(ends, key=lambda end: end[1]):  # a line of text apart at least
        if x < last:  # what goes on lies there
            axes.annotate(words, (x, y), xytext=(0, -6), textcoords="offset points", color=color, va="top", ha="center")
            continue
        height = axes.transData.transform((x, y))[1] * 72 / figure.dpi
        above = max(height, above + 14)
        axes.annotate(words, (x, y), xytext=(6, above - height), textcoords="offset points", color=color, va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "alibi"}):  # the same bytes from the same records
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
