"""Which slopes one number gives, in which order, and the nearest such set."""

import itertools

import numpy as np
import pytest

from alibi_cli.calibration.grid import linear_assignment, on_grid
from alibi_cli.exporting.head_order import head_order, max_bias_of
from alibi_cli.slopes import get_slopes


def in_groups(heads: int, groups: int, generator: np.random.Generator) -> list[int]:
    """A random order of heads that keeps groups together."""
    size = heads // groups
    return [group * size + head for group in generator.permutation(groups) for head in generator.permutation(size)]


@pytest.mark.parametrize("heads, groups", [(8, 8), (8, 4), (9, 3), (6, 1), (12, 2)])
@pytest.mark.parametrize("max_bias", [8.0, 5.25])
def test_an_order_of_heads_gives_back_the_slopes_that_llama_cpp_computes(heads: int, groups: int, max_bias: float):
    press = get_slopes(heads, max_bias)
    layers = [[press[h] for h in in_groups(heads, groups, np.random.default_rng(seed))] for seed in range(5)]
    assert max_bias_of(layers) == pytest.approx(max_bias)
    for slopes in layers:
        order = head_order(slopes, groups, max_bias)
        assert order is not None and [slopes[h] for h in order] == pytest.approx(press)
        size = heads // groups
        assert all(len({h // size for h in order[start : start + size]}) == 1 for start in range(0, heads, size))


def test_slopes_that_are_no_such_set_are_known():
    press = get_slopes(8)
    assert max_bias_of([press, [*press[:-1], press[-1] * 1.001]]) is None
    assert max_bias_of([press, get_slopes(8, 7.0)]) is None
    assert max_bias_of([[1.5] * 8]) is None
    assert head_order([press[i] for i in (0, 2, 1, 3, 4, 5, 6, 7)], 4, 8.0) is None  # takes heads out of their groups


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_the_assignment_is_the_cheapest_of_all(n: int):
    for seed in range(10):
        cost = np.random.default_rng(seed).normal(size=(n, n))
        found = linear_assignment(cost)
        totals = [sum(cost[i, order[i]] for i in range(n)) for order in itertools.permutations(range(n))]
        assert sum(cost[i, found[i]] for i in range(n)) == pytest.approx(min(totals))


@pytest.mark.parametrize("heads, groups", [(8, 8), (8, 4), (9, 3)])
def test_noisy_slopes_go_back_to_their_grid(heads: int, groups: int):
    generator = np.random.default_rng(0)
    press = get_slopes(heads, 6.0)
    layers = [[press[h] for h in in_groups(heads, groups, generator)] for _ in range(4)]
    noisy = [[slope * 2 ** generator.normal(0, 0.05) for slope in row] for row in layers]
    found, max_bias = on_grid(noisy, groups)
    assert max_bias == pytest.approx(6.0, rel=0.02)
    assert np.allclose(np.log2(found), np.log2(layers), atol=0.2)  # neighbours on the grid are 0.33 apart, or more
    assert max_bias_of(found) == pytest.approx(max_bias)
    assert all(head_order(row, groups, max_bias) is not None for row in found)
    fixed, eight = on_grid(noisy, groups, 8.0)
    assert eight == 8.0 and sorted(fixed[0]) == pytest.approx(sorted(get_slopes(heads)))
