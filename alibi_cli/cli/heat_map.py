"""Heat maps of (layers, heads) figures in the terminal, and one line about the extremes of each.

In colour a row of text holds two layers, as the upper and the lower half of its blocks. Without colour it holds one, in shades, or in
digits where the terminal has no such characters.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")  # viridis
SHADES, DIGITS = "·░▒▓█", "0123456789"
GAP = 2  # columns between maps side by side
NAMED = 3  # heads that a summary names at either end, if they fit

Row = Sequence[float | None]


class Canvas(NamedTuple):
    """What the terminal can show: columns, colours other than the sixteen basic ones, characters beyond ASCII."""

    width: int
    colours: bool
    unicode: bool


@dataclass(frozen=True)
class HeatMap:
    """values: (layers, heads), None where a head has no figure. lowest, highest: what heads with the smallest and largest figures are, as
    in "most local". logarithmic: whether shades are spaced by ratio."""

    title: str
    values: Sequence[Row]
    lowest: str
    highest: str
    logarithmic: bool

    def figures(self) -> list[float]:
        return [value for value in chain.from_iterable(self.values) if value is not None]

    def shares(self) -> list[list[float | None]]:
        """The values on a scale from 0, the lowest, to 1."""
        figures = self.figures()
        smallest = min((value for value in figures if value > 0), default=1.0)  # zero has no logarithm

        def place(value: float) -> float:
            return math.log(max(value, smallest)) if self.logarithmic else value

        low, high = place(min(figures, default=0)), place(max(figures, default=0))
        return [
            [None if value is None else (place(value) - low) / (high - low or 1) for value in row]
            for row in self.values
        ]


def lines(maps: Sequence[HeatMap], canvas: Canvas) -> Iterator["Text"]:
    """The maps, as many side by side as fit, then a summary of each."""
    from rich.text import Text

    drawn = [list(_map(each, canvas)) for each in maps]
    while drawn:
        widths = [max(line.cell_len for line in block) for block in drawn]
        fits = sum(sum(widths[:n]) + GAP * (n - 1) <= canvas.width for n in range(1, len(drawn) + 1)) or 1
        for parts in zip_longest(*drawn[:fits], fillvalue=Text()):
            line = Text()
            for part, width in zip(parts, widths, strict=False):
                line.append_text(part).append(" " * (width - part.cell_len + GAP))
            line.rstrip()
            yield line
        yield Text()
        drawn = drawn[fits:]
    for each in maps:
        yield Text(summary(each, canvas.width))


def summary(heat_map: HeatMap, width: int) -> str:
    """The median and the extremes, with as many heads at either end as fit on a line, named layer.head."""
    ranked = sorted(
        (value, f"{layer}.{head}")
        for layer, row in enumerate(heat_map.values)
        for head, value in enumerate(row)
        if value is not None
    )
    missing = sum(map(len, heat_map.values)) - len(ranked)
    without = f"; no figure for {missing} heads" if missing else ""
    if not ranked:
        return f"{heat_map.title}{without}"
    middle = (ranked[(len(ranked) - 1) // 2][0] + ranked[len(ranked) // 2][0]) / 2
    for named in range(min(NAMED, len(ranked)), 0, -1):
        ends = [(heat_map.lowest, ranked[:named]), (heat_map.highest, ranked[: -named - 1 : -1])]
        parts = [f"{what} {' '.join(name for _, name in heads)} ({_figure(heads[0][0])})" for what, heads in ends]
        text = f"{heat_map.title}: median {_figure(middle)}; {'; '.join(parts)}{without}"
        if len(text) <= width:
            break
    return text


def _map(heat_map: HeatMap, canvas: Canvas) -> Iterator["Text"]:
    from rich.text import Text

    shares, heads = heat_map.shares(), len(heat_map.values[0])
    margin = len(str(len(shares) - 1)) + 1
    room = max(1, canvas.width - margin)
    pooled = math.ceil(heads / room)  # heads in a block: more than one only where they do not fit
    columns = math.ceil(heads / pooled)
    cell = 2 if 2 * columns <= room else 1
    per_block = "" if pooled == 1 else f", means of {pooled} heads"
    yield Text(f"{heat_map.title}{per_block}", style="bold")
    figures = heat_map.figures() or [0.0]
    levels = len(COLOURS if canvas.colours else SHADES if canvas.unicode else DIGITS)
    legend = Text(f"{_figure(min(figures))} ")
    for level in range(levels):
        legend.append_text(_block([level / (levels - 1)] * 2, 1, canvas))
    yield legend.append(f" {_figure(max(figures))}{' log' if heat_map.logarithmic else ''}")
    rows = [[_mean(row[head : head + pooled]) for head in range(0, heads, pooled)] for row in shares]
    step = 2 if canvas.colours else 1
    for layer in range(0, len(rows), step):
        line = Text().append(f"{layer:>{margin - 1}} ", style="dim")
        for pair in zip_longest(*rows[layer : layer + step]):
            line.append_text(_block(pair, cell, canvas))
        yield line
    last = str(heads - 1)
    between = columns * cell - 1 - len(last)
    yield Text(" " * margin + ("0" + "heads".center(between) + last if between > 6 else "heads"), style="dim")


def _block(shares: Sequence[float | None], width: int, canvas: Canvas) -> "Text":
    """One or two layers of one head."""
    from rich.text import Text

    if canvas.colours:
        upper, lower = (None if share is None else _pick(COLOURS, share) for share in (*shares, None)[:2])
        if upper is None:
            return Text(" " * width) if lower is None else Text("▄" * width, style=lower)
        return Text("▀" * width, style=upper if lower is None else f"{upper} on {lower}")
    if shares[0] is None:
        return Text(" " * width)
    if canvas.unicode:
        return Text(_pick(SHADES, shares[0]) * width)
    return Text(_pick(DIGITS, shares[0]).ljust(width))  # a doubled digit would read as a number


def _pick(levels: Sequence[str], share: float) -> str:
    return levels[min(len(levels) - 1, int(share * len(levels)))]


def _mean(shares: Row) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _figure(value: float) -> str:
    """Two or three digits that matter."""
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}" if value >= 1 else f"{value:.2g}"
