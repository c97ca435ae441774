"""Overlapping parts of one tensor whose gradients are summed where they belong.

For each part that is an ordinary slice, autograd makes a gradient as large as the whole, zero but for the part, and adds these up. Blocks
of queries take many long parts of the same keys and values, and all of that grew with the square of their number.
"""

from typing import Any

import torch
from torch import Tensor


def is_transformed() -> bool:
    """True inside torch.func's transforms, which refuse functions with a backward of their own, unless it has no state."""
    return getattr(torch._C, "_are_functorch_transforms_active", bool)()


class Parts:
    """tensor[index] for one index after the other, each a view."""

    def __init__(self, tensor: Tensor):
        self.learns = torch.is_grad_enabled() and tensor.requires_grad and not is_transformed()
        self.sum = _Sum()
        self.whole = _Whole.apply(tensor, self.sum) if self.learns else tensor

    def __getitem__(self, index: Any) -> Tensor:
        return _Part.apply(self.whole, self.sum, index) if self.learns else self.whole[index]


class _Sum:
    """Of the gradients so far, in one backward pass. Apart from Parts, whose tensor the graph is not to keep."""

    total: Tensor | None = None


class _Whole(torch.autograd.Function):
    """The tensor; its backward comes after that of all parts."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, parts: _Sum) -> Tensor:
        context.parts = parts
        context.set_materialize_grads(False)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        total, context.parts.total = context.parts.total, None
        if gradient is None or total is None:
            return (total if gradient is None else gradient), None
        return total + gradient, None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, whole: Tensor, parts: _Sum, index: Any) -> Tensor:
        context.parts, context.index, context.shape = parts, index, whole.shape
        return whole[index]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        parts = context.parts
        if torch.is_grad_enabled():  # the gradient may have one of its own
            alone = gradient.new_zeros(context.shape)
            alone[context.index] = gradient
            return alone, None, None
        if parts.total is None:
            parts.total = gradient.new_zeros(context.shape)
        parts.total[context.index] += gradient
        return None, None, None
