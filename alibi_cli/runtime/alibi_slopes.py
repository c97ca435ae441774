"""ALiBi slopes, one per query head, without torch: the formula, what a legal slope is, and lists that may differ by layer.

Press et al. 2021 (arXiv 2108.12409, section 3): n heads, n a power of two, get the geometric sequence 2^(-8/n), 2^(-16/n), … 2^-8. Other
head counts take the slopes of the largest power of two p < n, followed by every second slope of 2p heads (the authors' code).
"""

from typing import Any, TypeGuard

PRESS_MAX_BIAS = 8.0
SMALLEST = (
    2.0**-126
)  # the smallest normal float32: biases are computed in float32, where what is smaller may count as zero
LARGEST = 1e30  # well inside float32

Slopes = list[float] | list[list[float]]


def get_slopes(n_heads: int, max_bias: float = PRESS_MAX_BIAS) -> list[float]:
    """The slope m_h of each of `n_heads` heads, in head order (not monotone where n_heads is no power of two).

    The bias of a head is -m_h * |i - j|. `max_bias` is the exponent of the gentlest slope, 2^-max_bias; Press et al. use 8.

    Raises:
        ValueError: n_heads is not a positive integer, or max_bias is not positive, or so large that slopes are zero in float32.
    """
    if isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1:
        raise ValueError(f"The number of heads must be a positive integer, not {n_heads!r}.")
    if not (max_bias > 0 and is_slope(2.0**-max_bias)):
        raise ValueError(
            f"max_bias must be positive and at most 126, where slopes become zero in float32, not {max_bias!r}."
        )
    power = 1 << (n_heads.bit_length() - 1)  # the largest power of two that is not above n_heads
    slopes = [2.0 ** (-max_bias * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-max_bias * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return slopes[:n_heads]


def is_slope(value: object) -> bool:
    """True for a number that is positive in float32. A slope of zero would be a head that cannot tell one position from another."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and SMALLEST <= value <= LARGEST


def is_per_layer(values: Any) -> TypeGuard[list[list[float]]]:
    """True for one list per layer, False for one list for all layers."""
    return isinstance(values, (list, tuple)) and len(values) > 0 and isinstance(values[0], (list, tuple))


def layers_of(values: Any) -> list[Any]:
    """The lists of a value that is one list for all layers or one per layer."""
    return list(values) if is_per_layer(values) else [values]


def extent(values: Slopes) -> tuple[float, float]:
    """The smallest and the largest, of one list or of one per layer."""
    flat = [each for row in layers_of(values) for each in row]
    return min(flat), max(flat)
