"""Slopes as a GGUF file has them: one number per model, from which llama.cpp computes the slope of every head by Press et al.'s formula.

A layer whose slopes are that set in another order can still be exported: its heads change places. Query heads that share a key-value head
are neighbours, so with grouped queries whole groups change places, and heads within a group.
"""

import math

from alibi_cli.slopes import Slopes, get_slopes, is_per_layer, layers_of

RELATIVE_TOLERANCE = 1e-5  # llama.cpp computes slopes in float32


def by_layer(slopes: Slopes, n_layers: int) -> list[list[float]]:
    """One list of slopes per layer."""
    return [list(row) for row in layers_of(slopes)] * (1 if is_per_layer(slopes) else n_layers)


def max_bias_of(layers: list[list[float]]) -> float | None:
    """The number that gives every layer its slopes, in whatever order; None if there is none."""
    found = -math.log2(min(layers[0]))  # the gentlest of Press et al.'s slopes is 2^-max_bias, for any number of heads
    if found <= 0:
        return None
    nearest = round(found)
    max_bias = float(nearest) if math.isclose(found, nearest, rel_tol=RELATIVE_TOLERANCE) else found
    wanted = sorted(get_slopes(len(layers[0]), max_bias))
    return max_bias if all(_same(sorted(layer), wanted) for layer in layers) else None


def head_order(slopes: list[float], n_groups: int, max_bias: float) -> list[int] | None:
    """The head that has to stand in each place, so that its slope is the one that llama.cpp gives to that place.

    slopes: of one layer, a permutation of the set of `max_bias`. n_groups: key-value heads. None if such an order would tear groups apart.
    """
    places = get_slopes(len(slopes), max_bias)
    size = len(slopes) // n_groups
    order: list[int] = []
    left = [list(range(start, start + size)) for start in range(0, len(slopes), size)]
    for start in range(0, len(places), size):
        chunk = places[start : start + size]
        group = next((g for g in left if _same(sorted(slopes[h] for h in g), sorted(chunk))), None)
        if group is None:
            return None
        left.remove(group)
        order += [min(group, key=lambda head: abs(math.log(slopes[head] / place))) for place in chunk]
    return order


def _same(some: list[float], others: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE) for a, b in zip(some, others, strict=True))
