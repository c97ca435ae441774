"""Surgery that fails leaves the model as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def all_or_nothing(model: torch.nn.Module) -> Iterator[None]:
    """If what is done inside fails, the modules of `model` and their configs have the classes, attributes, parts and hooks that they had.

    The numbers of tensors are not kept: what a policy writes into a tensor stays there.
    """
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    before = [_state(part) for part in (*model.modules(), *configs.values())]
    try:
        yield
    except BaseException:
        for state in before:
            _restore(*state)
        raise


def _state(part: Any) -> tuple[Any, type, dict[str, Any], list[tuple[Any, Any]]]:
    """An object, its class, its attributes, and copies of the dicts and sets among them."""
    attributes = dict(vars(part))
    return (
        part,
        type(part),
        attributes,
        [(kept, kept.copy()) for kept in attributes.values() if isinstance(kept, (dict, set))],
    )


def _restore(part: Any, cls: type, attributes: dict[str, Any], contents: list[tuple[Any, Any]]) -> None:
    part.__class__ = cls
    vars(part).clear()
    vars(part).update(attributes)
    for kept, copied in contents:  # the same dicts: the handles of hooks hold on to them
        kept.clear()
        kept.update(copied)
