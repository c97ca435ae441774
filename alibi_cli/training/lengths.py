"""Batches for training at a shorter length than the data were cut to."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BatchEncoding


def scale_train_sequence_length(batch: Mapping[str, Any], scaling: float) -> Any:
    """Cuts a batch's sequences: every tensor (B, S, …) becomes (B / scaling, S * scaling, …), row by row, so that no token is lost.

    A row (8, 128) at 0.25 becomes four of (32, 32), one after the other: the new row 0 is the beginning of the old row 0. The batch itself
    is not changed. Returns a BatchEncoding for a BatchEncoding, otherwise a dict. Where 1 / scaling is no integer, a new row may hold
    the end of one old row and the beginning of the next.

    Args:
        batch: tensors by field name; None stays None.
        scaling: new length / old length, such as 0.25, the default of Composer's Alibi.

    Raises:
        ValueError: scaling is not positive and finite, or a field has no length to scale (one label per sequence; a square mask) or does
            not divide. The field is named.
        TypeError: the batch is not a mapping, or a field is not a tensor.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"The batch must map field names to tensors; it is a {type(batch).__name__}.")
    if isinstance(scaling, bool) or not 0 < scaling < math.inf:
        raise ValueError(f"The scaling must be positive and finite, not {scaling!r}.")
    scaled = {name: None if field is None else _scale(name, field, scaling) for name, field in batch.items()}
    return BatchEncoding(scaled) if isinstance(batch, BatchEncoding) else scaled


def _scale(name: str, field: object, scaling: float) -> Tensor:
    if not isinstance(field, Tensor):
        raise TypeError(f"{name} is a {type(field).__name__}, not a tensor: its length cannot be scaled.")
    shape = tuple(field.shape)
    if len(shape) < 2:
        raise ValueError(f"{name} has shape {shape}, one value per sequence: a sequence cannot be cut and keep it.")
    rows, old = shape[:2]
    if len(shape) > 2 and shape[-1] == shape[-2]:
        raise ValueError(f"{name} has shape {shape}, a mask of queries and keys: give one value per token instead.")
    new = round(old * scaling)
    if new < 1 or abs(old * scaling - new) > 1e-6 * old:
        raise ValueError(f"{name} has shape {shape}: its length {old} times {scaling} is not a whole number.")
    if rows * old % new:
        raise ValueError(f"{name} has shape {shape}: its {rows * old} tokens are not whole rows of {new}.")
    return field.reshape(rows * old // new, new, *shape[2:])
