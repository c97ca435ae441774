"""Alibi<Name> for every family that vLLM has a model of its own for; a class is made when its name is asked for."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models import ModelRegistry

from alibi_cli.runtime.alibi_positions import POSITION_TABLES, NoPosition
from alibi_cli.serving.layers import Attentions, layers_here
from alibi_cli.serving.routes import check


class NoRope(torch.nn.Module):
    """Stands for a rotary embedding that is gone: queries and keys stay, times the factor that YaRN and its like multiplied them by."""

    def __init__(self, scaling: float) -> None:
        super().__init__()
        self.scaling = scaling

    def forward(self, positions: Tensor, query: Tensor, key: Tensor | None = None, *args: Any) -> Any:
        if self.scaling != 1:
            query, key = query * self.scaling, None if key is None else key * self.scaling
        return query, key


@contextlib.contextmanager
def surgery(config: Any, attentions: Attentions) -> Iterator[None]:
    """While a model is built: `Attention` gives every layer its bias, and `get_rope` gives no rotation unless the policy keeps it.

    Families borrow each other's layers, so this holds in every module of models.
    """
    with_bias: Any = attentions.of(Attention)
    rope = NoRope(config.alibi_rotary_scaling or 1.0)
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("vllm.model_executor.models."):
                if vars(module).get("Attention") is Attention:
                    stack.enter_context(patch.object(module, "Attention", with_bias))
                if config.alibi_policy != "add" and "get_rope" in vars(module):
                    stack.enter_context(patch.object(module, "get_rope", lambda *args, **kwargs: rope))
        yield


def drop_position_tables(model: torch.nn.Module, with_vector: bool) -> None:
    """Learned position embeddings: add nothing instead, or the vector that stands in the checkpoint."""
    for part in list(model.modules()):
        for name in POSITION_TABLES:
            table = getattr(part, name, None)
            if isinstance(table, torch.nn.Module):
                stand_in = NoPosition(table.embedding_dim)  # type: ignore[arg-type]
                if with_vector:
                    stand_in.learn_vector(torch.get_default_dtype(), next(table.parameters()).device)
                setattr(part, name, stand_in)


def model_class(name: str) -> Any:
    """Alibi<Name>, a subclass of vLLM's model of that architecture."""
    base: Any = ModelRegistry._try_load_model_cls(name.removeprefix("Alibi"))
    if base is None:
        raise AttributeError(f"vLLM has no model {name.removeprefix('Alibi')}.")

    class AlibiModel(base):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            config = vllm_config.model_config.hf_config
            check(config)
            attentions = Attentions(config)
            with surgery(config, attentions):
                super().__init__(vllm_config=vllm_config, prefix=prefix)
            attentions.check_count(base.__name__, layers_here(config.num_hidden_layers))
            drop_position_tables(self, bool(config.alibi_position_vector))

    AlibiModel.__name__ = AlibiModel.__qualname__ = name
    AlibiModel.__module__ = __name__
    return AlibiModel


def __getattr__(name: str) -> Any:
    if not name.startswith("Alibi"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = model_class(name)
    return globals()[name]
