"""What the picture of an evaluation shows."""

from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, ScalarFormatter

import alibi_cli
from alibi_cli.text.documents import Text
from tests.models import OLD_MAX, save_tiny
from tests.reporting.helpers import BASE, flat, results_of


def test_panels_end_where_measuring_ends_and_mark_the_trained_length_within(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "m")
    text = Text("t", [(f"d{i}", "words of a document " * OLD_MAX) for i in range(3)])
    for lengths, marked in (([OLD_MAX // 4, OLD_MAX // 2], False), ([OLD_MAX // 2, 2 * OLD_MAX], True)):
        results = alibi_cli.evaluate([str(model)], lengths=lengths, text=text)
        assert results.models[0].trained_length == OLD_MAX
        for axis in results.plot().axes:
            drawn = [set(line.get_xdata()) for line in axis.lines]
            assert ({OLD_MAX} in drawn) == marked and axis.get_xlim()[1] < 1.5 * lengths[-1]


def overlaps(figure: Any) -> int:
    """How many labels of ticks lie on another one of their axis, or on the legend."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    legend, found = figure.legends[0].get_window_extent(renderer), 0
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            boxes = [label.get_window_extent(renderer) for label in shown if label.get_text()]
            assert len(boxes) >= 2
            boxes += [legend, axis.label.get_window_extent(renderer)]
            found += sum(one.overlaps(other) for one, other in combinations(boxes, 2))
    return found


def test_labels_are_readable_from_perplexity_5_to_30_000() -> None:
    names = ["org/base", *(f"runs/{i}/a-converted-model-with-a-long-name" for i in range(4))]
    for highest in (9.0, 60.0, 30_000.0):
        arms = {"full": (5.0, 5.0, 8.0, highest), "truncated": (5.0, 5.0), "window": (5.1, 5.2)}
        results = results_of({names[0]: arms, **{name: flat(6) for name in names[1:]}}, names[0])
        figure = results.plot()
        assert overlaps(figure) == 0, highest
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(labels) == len(set(labels)) == 8 and "base:truncated" in labels and "trained length" in labels
    figure.axes[0].yaxis.set(minor_formatter=ScalarFormatter(), major_locator=FixedLocator([9_800, 10_000]))
    assert overlaps(figure) > 0  # the control


def test_a_pdf_embeds_fonts_that_journals_take(tmp_path: Path) -> None:
    results = results_of({"base": BASE, "$m_1$": flat(9)}, "base")
    for name in ("x.pdf", "x.svg", "x.png"):
        results.plot(tmp_path / name)
    pdf = (tmp_path / "x.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/CIDFontType2" in pdf and b"/Type3" not in pdf and b"STIX" in pdf
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    figure = Figure()
    figure.text(0, 0, "as matplotlib has it")
    figure.savefig(tmp_path / "plain.pdf")
    assert b"/Type3" in (tmp_path / "plain.pdf").read_bytes()  # the control


def test_a_text_may_have_any_name(tmp_path: Path) -> None:
    model, text = (
        save_tiny("llama", tmp_path / "m"),
        Text("cost_$_in_$^_.txt", [("d", "words of a document " * OLD_MAX)]),
    )
    alibi_cli.evaluate([str(model)], lengths=[OLD_MAX], text=text).plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
