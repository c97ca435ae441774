"""The rotation of a checkpoint that keeps it, as transformers computes it: attention sinks that are too far away are turned by it."""

from importlib import import_module
from typing import Any

from alibi_cli.models.families import family_of
from alibi_cli.runtime.alibi_policies import add
from alibi_cli.serving.routes import stock_type


def rotation_of(config: Any) -> tuple[Any, bool]:
    """(the family's rotary embedding, whether it rotates neighbouring dimensions): what `alibi_rotation` of a module is.

    Raises:
        ValueError: the family keeps its rotation in its attention.
    """
    family = f"transformers.models.{family_of(stock_type(config))}."
    for path, keep in add.items():
        if isinstance(path, str) and path.startswith(family) and "RotaryEmbedding" in path:
            module, _, name = path.rpartition(".")
            rotation = keep(getattr(import_module(module), name)(config=config), 0, 0)
            return rotation, rotation.alibi_interleaved
    raise ValueError(f"{config.model_type} has no rotary embedding of its own, so it cannot have a sink distance.")
