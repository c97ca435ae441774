"""How many first tokens of a document a model uses as attention sinks (Xiao et al. 2023, arXiv 2309.17453)."""

import numpy as np
import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.heads import LEADING, observe_heads

CANDIDATES = (0, 1, 2, 4, LEADING)
LONGEST = 1024  # tokens of a window that is looked at: eager attention holds all weights of a layer
LOOKED_AT = 8192  # tokens: in a few short windows, what their first tokens say would pass for a sink
IGNORED = (
    0.01  # share of the weight, above what falls to any token, that may rest on tokens that are not counted as sinks
)


def choose_sinks(model: PreTrainedModel, input_ids: torch.Tensor) -> int:
    """The fewest of CANDIDATES that hold the weight that the original's heads rest on the first tokens of (B, L) windows.

    Read from the second half of each window, on the mean over layers and heads. A token gets 1 / i of query i's weight if a head looks
    everywhere alike; what is above that is taken for a sink's.
    """
    length = min(input_ids.shape[1], LONGEST)
    windows = input_ids[: LOOKED_AT // length, :length].to(model.device)
    leading = observe_heads(model, list(windows.split(max(1, LONGEST // length)))).leading
    alike = float(np.mean(1 / np.arange(length // 2 + 1, length + 1)))
    excess = np.maximum(leading - alike, 0)
    return next(n for n in CANDIDATES if excess[n:].sum() <= IGNORED)
