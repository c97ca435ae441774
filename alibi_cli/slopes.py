"""Slopes of Press et al. and from files, without torch. What a slope is: runtime/alibi_slopes.py, which travels in checkpoints."""

import json
from pathlib import Path

from alibi_cli.errors import UsageError
from alibi_cli.runtime.alibi_slopes import PRESS_MAX_BIAS, Slopes, extent, get_slopes, is_per_layer, is_slope, layers_of

__all__ = ["PRESS_MAX_BIAS", "Slopes", "extent", "get_slopes", "is_per_layer", "is_slope", "layers_of", "read_slopes"]


def read_slopes(path: Path, n_heads: int, n_layers: int) -> Slopes:
    """Slopes from a JSON file: one list of `n_heads` numbers, or `n_layers` such lists.

    Raises:
        AlibiError: the file cannot be read, or does not hold that many slopes.
    """
    expected = f"a JSON list of {n_heads} numbers, positive in float32 (one per head), or {n_layers} such lists (one per layer)"
    try:
        slopes = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"Cannot read the slopes file {path}: {error.strerror}.", hint=f"It should hold {expected}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}.", hint=f"It should hold {expected}.") from None
    layers = layers_of(slopes)
    if is_per_layer(slopes) and len(layers) != n_layers:
        raise UsageError(f"{path} holds {len(layers)} lists of slopes; the model has {n_layers} layers.")
    for layer in layers:
        if not isinstance(layer, list) or len(layer) != n_heads or not all(map(is_slope, layer)):
            raise UsageError(f"The slopes in {path} do not fit the model.", hint=f"The file should hold {expected}.")
    return slopes
