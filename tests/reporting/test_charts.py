"""What a reader could take for a difference, or overlook."""

from alibi_cli.reporting.charts import LEAST_SCALE, differences, perplexity
from tests.reporting.helpers import results_of


def test_rounding_is_not_drawn_as_a_difference() -> None:
    results = results_of({"a": {"full": (12.0, 11.0)}, "b": {"full": (12.0, 11.0)}}, baseline="a")
    real = differences(results)
    assert real is not None and "range" not in real.layout["yaxis"]  # the control: noise of the helper, 0.02 nats
    for each in results.contrasts:
        each.delta_nll, each.ci95 = 2e-7, (-2e-7, 5e-7)
    rounding = differences(results)
    assert rounding is not None and rounding.layout["yaxis"]["range"] == [-LEAST_SCALE, LEAST_SCALE]
    assert rounding.layout["yaxis"]["exponentformat"] == "none"  # not 200n


def test_a_line_that_another_covers_shows_at_its_edges() -> None:
    chart = perplexity(results_of({"a": {"full": (12.0, 11.0)}, "b": {"full": (12.0, 11.0)}}, baseline="a"))
    assert chart is not None
    below, above = (each["line"]["width"] for each in chart.data)
    assert below > 2 * above
