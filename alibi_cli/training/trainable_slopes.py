"""Slopes that train with the weights.

Each attention module gets a parameter, the logarithms of its slopes divided by RATE: one step of Adam, which is as long for every
parameter, then moves a log-slope RATE times as far as a weight. They stay within the bounds of calibration. Offsets stay as they are: they
say up to where the model was trained, and a bias that begins elsewhere is another one.
"""

import math
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.learnable import slope_bounds
from alibi_cli.calibration.twin import attention_modules, layer_lists

RATE = 16  # calibration's rates for slopes and for weights are as far apart, or nearly
PARAMETER = "alibi_scaled_log_slopes"


def attach_slopes(model: PreTrainedModel, trained_length: int) -> None:
    """Gives each attention module of a converted model a parameter, named PARAMETER, that its slopes are made of before it runs."""
    low, high = (math.log(bound) / RATE for bound in slope_bounds(trained_length))

    def place(module: Any, args: object = ()) -> None:
        scaled = getattr(module, PARAMETER)
        with torch.no_grad():
            scaled.clamp_(low, high)
        module.alibi_slopes = (scaled * RATE).exp()

    for module in attention_modules(model).values():
        scaled = torch.nn.Parameter((torch.tensor(module.alibi_slopes).log() / RATE).clamp(low, high))  # (H,)
        # By the log-slopes, because all gradients are clipped by their common norm.
        scaled.register_hook(lambda gradient: gradient / RATE)
        module.register_parameter(PARAMETER, scaled)
        module.place_slopes, module.placing = place, module.register_forward_pre_hook(place, prepend=True)


def settle_slopes(model: PreTrainedModel) -> None:
    """Turns the parameters back into numbers, in the modules and in the config."""
    rows = []
    for module in attention_modules(model).values():
        module.place_slopes(module)  # the last step of the optimizer may have left the bounds
        row = module.alibi_slopes.detach().double().tolist()
        module.placing.remove()
        del module.place_slopes, module.placing, module._parameters[PARAMETER]
        module.alibi_slopes = row
        rows.append(row)
    model.config.alibi_slopes = layer_lists(rows, model)
