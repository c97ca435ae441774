"""What calibration may learn: slopes, the vector in place of position embeddings, and the weights of normalisation layers.

The slopes are kept between two bounds. Above `steepest` (15.9) the weight of a head's nearest neighbour, e^-m of its own, is lost in
float32; the gradient is gone and a steeper slope changes nothing. Below `gentlest` the bias changes by less than 1 % over the whole
trained length; a gentler slope cannot be told from none. So neither end underflows, whatever the optimizer does.
"""

import math
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.twin import attention_modules, norm_weights, own_copies, position_vectors

# Adam's step is a change of about this size. A slope is learned by its logarithm: 0.1 is a tenth of it, whatever its size. An offset is
# learned as a share of the range.
SLOPES_RATE, OFFSETS_RATE, TENSORS_RATE = 0.1, 0.01, 0.01


def slope_bounds(trained_length: int) -> tuple[float, float]:
    """(gentlest, steepest)"""
    return 0.01 / trained_length, math.log(1 / torch.finfo(torch.float32).eps)


def learned_names(converted: PreTrainedModel, method: str) -> tuple[list[str], list[str]]:
    """(added, changed): names of the parameters beside the slopes that a method learns."""
    return position_vectors(converted), norm_weights(converted) if method == "distil+norms" else []


class Learnable:
    """The parameters of a converted model that a method learns; all others stay frozen and shared with the original.

    slopes: initial (rows, H), one row for each attention module. offsets: the same, in tokens, if heads have offsets.
    """

    def __init__(
        self,
        converted: PreTrainedModel,
        slopes: torch.Tensor,
        method: str,
        trained_length: int,
        offsets: torch.Tensor | None = None,
    ):
        self.modules = list(attention_modules(converted).values())
        if slopes.shape[0] != len(self.modules):
            raise ValueError(f"{slopes.shape[0]} rows of slopes for {len(self.modules)} attention modules.")
        self.gentlest, self.steepest = slope_bounds(trained_length)
        self.log_slopes = torch.nn.Parameter(slopes.float().clamp(self.gentlest, self.steepest).log())  # (rows, H)
        self.reach = trained_length
        self.shares = None if offsets is None else torch.nn.Parameter(offsets.float() / trained_length)  # (rows, H)
        added, changed = learned_names(converted, method)
        self.added, self.changed = own_copies(converted, added), own_copies(converted, changed)
        self.place()

    @property
    def tensors(self) -> dict[str, torch.nn.Parameter]:
        return {**self.added, **self.changed}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.log_slopes, *([] if self.shares is None else [self.shares]), *self.tensors.values()]

    def groups(self) -> list[dict[str, Any]]:
        """The parameters with their rates, for an optimizer."""
        groups = [(self.log_slopes, SLOPES_RATE), *((tensor, TENSORS_RATE) for tensor in self.tensors.values())]
        if self.shares is not None:
            groups.append((self.shares, OFFSETS_RATE))
        return [{"params": [parameter], "lr": rate} for parameter, rate in groups]

    def place(self) -> None:
        """Puts the slopes, within their bounds, where attention reads them; they carry the gradient back."""
        with torch.no_grad():
            self.log_slopes.clamp_(math.log(self.gentlest), math.log(self.steepest))
            if self.shares is not None:
                self.shares.clamp_(0, 1)
        for index, module in enumerate(self.modules):
            module.alibi_slopes = self.log_slopes[index].exp()
            if self.shares is not None:
                module.alibi_offsets = self.shares[index] * self.reach

    def slopes(self) -> list[list[float]]:
        return self.log_slopes.detach().double().exp().tolist()

    def offsets(self) -> list[list[float]] | None:
        """In tokens."""
        return None if self.shares is None else (self.shares.detach().double() * self.reach).tolist()

    def settle(self) -> None:
        """Slopes and offsets become numbers."""
        offsets = self.offsets()
        for index, module in enumerate(self.modules):
            module.alibi_slopes = self.slopes()[index]
            if offsets is not None:
                module.alibi_offsets = offsets[index]

    def state(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters()]

    @torch.no_grad()
    def restore(self, state: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters(), state, strict=True):
            parameter.copy_(value)
        self.place()
