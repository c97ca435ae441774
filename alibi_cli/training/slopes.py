"""Slopes that train with the weights.

Each attention module gets a parameter, the logarithms of its slopes divided by RATE: one step of Adam, which is as long for every
parameter, then moves a log-slope RATE times as far as a weight. They stay within the bounds of calibration.
"""

import math

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.learnable import slope_bounds
from alibi_cli.calibration.twin import attention_modules, layer_lists

RATE = 16  # calibration's rates for slopes and for weights are as far apart, or nearly
PARAMETER = "alibi_scaled_log_slopes"


def attach_slopes(model: PreTrainedModel, trained_length: int) -> None:
    """Gives each attention module of a converted model a parameter, named PARAMETER, that its slopes are made of before it runs."""
    gentlest, steepest = slope_bounds(trained_length)

    def place(module: torch.nn.Module, args: object) -> None:
        scaled = getattr(module, PARAMETER)
        with torch.no_grad():
            scaled.clamp_(math.log(gentlest) / RATE, math.log(steepest) / RATE)
        module.alibi_slopes = (scaled * RATE).exp()

    for module in attention_modules(model).values():
        slopes = torch.tensor(module.alibi_slopes).clamp(gentlest, steepest)  # (H,)
        scaled = torch.nn.Parameter(slopes.log() / RATE)
        scaled.register_hook(
            lambda gradient: gradient / RATE
        )  # by the log-slopes: gradients are clipped by their common norm
        module.register_parameter(PARAMETER, scaled)
        module.alibi_slopes_placed = module.register_forward_pre_hook(place, prepend=True)


def settle_slopes(model: PreTrainedModel) -> None:
    """Turns the parameters back into numbers, in the modules and in the config."""
    rows = []
    for module in attention_modules(model).values():
        row = (getattr(module, PARAMETER).detach().double() * RATE).exp().tolist()
        module.alibi_slopes_placed.remove()
        del module.alibi_slopes_placed, module._parameters[PARAMETER]
        module.alibi_slopes = row
        rows.append(row)
    model.config.alibi_slopes = layer_lists(rows, model)
