"""How a tensor of the file comes out of tensors of the checkpoint.

A recipe is data until it is made: its shape is known without reading a weight, and one tensor at a time is in memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recipe:
    """sources: names of tensors in the checkpoint. make: what becomes of them, in float32."""

    sources: tuple[str, ...]
    make: Callable[..., Tensor]

    def then(self, change: Callable[[Tensor], Tensor]) -> "Recipe":
        return Recipe(self.sources, lambda *tensors: change(self.make(*tensors)))

    def times(self, factor: float) -> "Recipe":
        return self if factor == 1 else self.then(lambda tensor: tensor * factor)

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of what is made of tensors of these shapes."""
        with torch.device("meta"):
            return tuple(self.make(*(torch.empty(shapes[name]) for name in self.sources)).shape)


def of(name: str) -> Recipe:
    return Recipe((name,), lambda tensor: tensor)


def filled(value: float, *shape: int) -> Recipe:
    """A tensor that the architecture wants and the family lacks."""
    return Recipe((), lambda: torch.full(shape, value))


def joined(*recipes: Recipe) -> Recipe:
    """One below the other."""

    def make(*tensors: Tensor) -> Tensor:
        parts, position = [], 0
        for recipe in recipes:
            parts.append(recipe.make(*tensors[position : position + len(recipe.sources)]))
            position += len(recipe.sources)
        return torch.cat(parts)

    return Recipe(tuple(name for recipe in recipes for name in recipe.sources), make)


def added(first: Recipe, second: Recipe) -> Recipe:
    """The sum, of which `second` is the same for every row."""
    n = len(first.sources)
    return Recipe(
        (*first.sources, *second.sources), lambda *tensors: first.make(*tensors[:n]) + second.make(*tensors[n:])
    )


def rows(recipe: Recipe, begin: int, end: int) -> Recipe:
    return recipe.then(lambda tensor: tensor[begin:end])


def reordered(recipe: Recipe, order: list[int], width: int, dim: int = 0) -> Recipe:
    """Blocks of `width` rows (or columns) in another order."""
    if order == sorted(order):
        return recipe
    return recipe.then(lambda tensor: torch.cat([tensor.narrow(dim, h * width, width) for h in order], dim))
