"""Heat maps as text: what fits, what each kind of terminal gets, and that blocks and summaries say what the figures are."""

import pytest
from rich.text import Text

from alibi_cli.cli.heat_map import COLOURS, DIGITS, SHADES, Canvas, HeatMap, lines, summary
from tests.cli.run import alibi

KINDS = {"colours": (True, True), "shades": (False, True), "digits": (False, False)}


def made(layers: int, heads: int, title: str = "distance, tokens") -> HeatMap:
    """Figures from 1 to 512 tokens."""
    last = layers * heads - 1
    values = [[512 ** ((heads * layer + head) / max(1, last)) for head in range(heads)] for layer in range(layers)]
    return HeatMap(title, values, "most local", "farthest", True)


def drawn(maps: list[HeatMap], width: int = 80, kind: str = "shades") -> list[Text]:
    return list(lines(maps, Canvas(width, *KINDS[kind])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "heads"), [(30, 9), (80, 64), (4, 200), (1, 1), (5, 2), (101, 12)])
def test_every_model_fits_into_80_columns(layers, heads, kind):
    found = drawn(
        [made(layers, heads, title) for title in ("distance, no sinks", "entropy, nats", "slope m")], 80, kind
    )
    assert max(line.cell_len for line in found) <= 80
    assert all(line.plain.isascii() for line in found) == (kind == "digits")


def test_three_maps_of_thirty_layers_stand_side_by_side_in_one_screen():
    found = drawn([made(30, 9)] * 3, 80, "colours")
    assert found[0].plain.count("distance, tokens") == 3
    assert len(found) == 2 + 15 + 1 + 1 + 3  # title and legend, two layers a row, axis, an empty line, summaries


def test_a_half_block_is_two_layers():
    values = [[0.0, 8.0], [8.0, None], [4.0, 0.0]]
    found = drawn([HeatMap("", values, "least", "most", False)], 80, "colours")
    first, second = found[2:4]
    lowest, middle, highest = COLOURS[0], COLOURS[4], COLOURS[-1]
    styles = [(first.plain[span.start : span.end], span.style) for span in first.spans[1:]]
    assert styles == [("▀▀", f"{lowest} on {highest}"), ("▀▀", highest)]
    assert [span.style for span in second.spans[1:]] == [middle, lowest]  # an odd layer has an upper half alone
    upside_down = drawn([HeatMap("", [[None, 0.0], [1.0, 1.0]], "least", "most", False)], 80, "colours")[2]
    assert upside_down.plain == "0 ▄▄▀▀"


@pytest.mark.parametrize(("kind", "levels"), [("shades", SHADES), ("digits", DIGITS)])
def test_without_colour_a_row_is_a_layer(kind, levels):
    found = drawn([HeatMap("t", [[0.0, 1.0], [None, 0.5]], "least", "most", False)], 80, kind)
    rows = [line.plain for line in found[2:4]]
    cells = [[row[2 + 2 * head : 4 + 2 * head].strip()[:1] for head in range(2)] for row in rows]
    assert cells == [[levels[0], levels[-1]], ["", levels[len(levels) // 2]]]


def test_shades_of_a_logarithmic_map_are_spaced_by_ratio_and_zero_has_one():
    def row(logarithmic: bool) -> str:
        return drawn([HeatMap("t", [[0.0, 1.0, 10.0, 100.0]], "", "", logarithmic)], 80, "digits")[2].plain

    assert row(True) == "0 0 0 5 9"
    assert row(False) == "0 0 0 1 9"


def test_a_summary_names_the_extremes_by_layer_and_head():
    heat_map = HeatMap("distance", [[5.0, 1.0, 40.0], [2.0, 300.0, None]], "most local", "farthest", True)
    assert (
        summary(heat_map, 120)
        == "distance: median 5; most local 0.1 1.0 0.0 (1); farthest 1.1 0.2 0.0 (300); no figure for 1 heads"
    )
    assert "most local 0.1 (1); farthest 1.1 (300)" in summary(heat_map, 60)
    assert summary(HeatMap("distance", [[None]], "", "", True), 80) == "distance; no figure for 1 heads"


def test_equal_figures_and_none_at_all_are_drawn():
    for values in ([[1.0, 1.0]], [[0.0]], [[None, None]]):
        for kind in KINDS:
            assert drawn([HeatMap("t", values, "least", "most", True)], 80, kind)


@pytest.mark.parametrize(
    ("environment", "shown"), [({}, "█"), ({"PYTHONIOENCODING": "ascii"}, "9"), ({"TERM": "dumb"}, "█")]
)
def test_a_pipe_gets_no_escapes(environment, shown, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "alibi_llama", "num_attention_heads": 2, "alibi_slopes": [[0.5, 0.1], [0.01, 1.0]]}'
    )
    found = alibi("inspect", "slopes", folder, env=environment).stdout
    assert "2 layers of 2 heads, checkpoint" in found and "\x1b" not in found and shown in found
    assert "gentlest 1.0 0.1 0.0 (0.01); steepest 1.1 0.0 0.1 (1)" in found
