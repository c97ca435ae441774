"""ALiBi slopes, one per query head, without torch.

Press et al. 2021 (arXiv 2108.12409, section 3): n heads, n a power of two, get the geometric sequence 2^(-8/n), 2^(-16/n), … 2^-8. Other
head counts take the slopes of the largest power of two p < n, followed by every second slope of 2p heads (the authors' code).
"""

import json
import math
from pathlib import Path

from alibi_cli.errors import UsageError

PRESS_MAX_BIAS = 8.0
LARGEST = 1e30  # well inside float32, in which biases are computed

Slopes = list[float] | list[list[float]]


def get_slopes(n_heads: int, max_bias: float = PRESS_MAX_BIAS) -> list[float]:
    """The slope m_h of each of `n_heads` heads, in head order (not monotone where n_heads is no power of two).

    The bias of a head is -m_h * |i - j|. `max_bias` is the exponent of the gentlest slope, 2^-max_bias; Press et al. use 8.

    Raises:
        ValueError: n_heads is not a positive integer, or max_bias is not positive and finite.
    """
    if isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1:
        raise ValueError(f"The number of heads must be a positive integer, not {n_heads!r}.")
    if not (0 < max_bias < math.inf):
        raise ValueError(f"max_bias must be positive and finite, not {max_bias!r}.")
    power = 1 << (n_heads.bit_length() - 1)  # the largest power of two that is not above n_heads
    slopes = [2.0 ** (-max_bias * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-max_bias * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return slopes[:n_heads]


def read_slopes(path: Path, n_heads: int, n_layers: int) -> Slopes:
    """Slopes from a JSON file: one list of `n_heads` numbers, or `n_layers` such lists.

    Raises:
        AlibiError: the file cannot be read, or does not hold that many positive finite numbers.
    """
    expected = f"a JSON list of {n_heads} positive numbers (one per head), or {n_layers} such lists (one per layer)"
    try:
        slopes = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"Cannot read the slopes file {path}: {error.strerror}.", hint=f"It should hold {expected}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}.", hint=f"It should hold {expected}.") from None
    layers = slopes if isinstance(slopes, list) and slopes and isinstance(slopes[0], list) else [slopes]
    if layers is slopes and len(layers) != n_layers:
        raise UsageError(f"{path} holds {len(layers)} lists of slopes; the model has {n_layers} layers.")
    for layer in layers:
        if not isinstance(layer, list) or len(layer) != n_heads or not all(is_slope(slope) for slope in layer):
            raise UsageError(f"The slopes in {path} do not fit the model.", hint=f"The file should hold {expected}.")
    return slopes


def extent(values: Slopes) -> tuple[float, float]:
    """The smallest and the largest, of one list or of one per layer."""
    flat = [each for row in values for each in (row if isinstance(row, list) else [row])]
    return min(flat), max(flat)


def is_slope(value: object) -> bool:
    """True for a positive number that biases can be computed with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= LARGEST
