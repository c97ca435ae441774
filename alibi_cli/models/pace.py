"""How long passes of a model take on this machine, before the first.

Operations follow from shapes; seconds from operations, at SHARE of the speed that this machine multiplies matrices of the model's width
with. Within a factor of two or three.
"""

import torch

from alibi_cli.models.cost import Cost
from alibi_cli.models.machine import speed
from alibi_cli.progress import Say
from alibi_cli.time_left import duration

SHARE = 0.5  # of the speed of a matrix product, that a forward pass has
PER_LAYER = 3e-4  # seconds that Python takes for each layer of each batch
QUICK = 5e11  # operations that take less than a minute anywhere: nothing is measured for them
WORTH_A_LINE, WORTH_A_HINT = 60.0, 600.0  # seconds


def seconds_of(operations: float, passes: float, layers: int, measured: float) -> float:
    """measured: operations per second of matrix products. passes: of one batch."""
    return operations / (SHARE * measured) + passes * layers * PER_LAYER


def announce(operations: float, tokens: int, cost: Cost, device: str, dtype: torch.dtype, say: Say, hint: str) -> None:
    """Says what long work is going to take, before it begins. tokens: of a batch. hint: how to make it shorter, for work that is very
    long."""
    if operations < QUICK:
        return
    passes = operations / max(1.0, 2.0 * cost.matrices * tokens)
    seconds = seconds_of(operations, passes, cost.layers, speed(device, dtype, tokens, max(32, cost.width)))
    if seconds < WORTH_A_LINE:
        return
    say(f"This will take about {duration(seconds)} on {device}.")
    if seconds > WORTH_A_HINT:
        say(hint)
