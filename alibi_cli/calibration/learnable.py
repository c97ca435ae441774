"""What calibration may learn: slopes, the vector in place of a table of positions, and the weights of normalisation layers.

The slopes are kept between two bounds. Above `steepest` (15.9) the weight of a head's nearest neighbour, e^-m of its own, is lost in
float32; the gradient is gone and a steeper slope changes nothing. Below `gentlest` the bias changes by less than 1 % over the whole
trained length; a gentler slope cannot be told from none. So neither end underflows, whatever the optimizer does.
"""

import math

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.twin import attention_modules, norm_weights, own_copies, position_vectors

METHODS = ("look-back", "distil", "distil+norms")


def slope_bounds(trained_length: int) -> tuple[float, float]:
    """(gentlest, steepest)"""
    return 0.01 / trained_length, math.log(1 / torch.finfo(torch.float32).eps)


def learned_names(converted: PreTrainedModel, method: str) -> tuple[list[str], list[str]]:
    """(added, changed): names of the parameters beside the slopes that a method learns."""
    return position_vectors(converted), norm_weights(converted) if method == "distil+norms" else []


class Learnable:
    """The parameters of a converted model that a method learns; all others stay frozen and shared with the original.

    slopes: initial (rows, H), one row for each attention module.
    """

    def __init__(self, converted: PreTrainedModel, slopes: torch.Tensor, method: str, trained_length: int):
        self.modules = list(attention_modules(converted).values())
        if slopes.shape[0] != len(self.modules):
            raise ValueError(f"{slopes.shape[0]} rows of slopes for {len(self.modules)} attention modules.")
        self.gentlest, self.steepest = slope_bounds(trained_length)
        self.log_slopes = torch.nn.Parameter(slopes.float().clamp(self.gentlest, self.steepest).log())  # (rows, H)
        added, changed = learned_names(converted, method)
        self.added, self.changed = own_copies(converted, added), own_copies(converted, changed)
        self.place()

    @property
    def tensors(self) -> dict[str, torch.nn.Parameter]:
        return {**self.added, **self.changed}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.log_slopes, *self.tensors.values()]

    def place(self) -> None:
        """Puts the slopes, within their bounds, where attention reads them; they carry the gradient back."""
        with torch.no_grad():
            self.log_slopes.clamp_(math.log(self.gentlest), math.log(self.steepest))
        for module, row in zip(self.modules, self.log_slopes, strict=True):
            module.alibi_slopes = row.exp()

    def slopes(self) -> list[list[float]]:
        return self.log_slopes.detach().double().exp().tolist()

    def state(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters()]

    @torch.no_grad()
    def restore(self, state: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters(), state, strict=True):
            parameter.copy_(value)
        self.place()
