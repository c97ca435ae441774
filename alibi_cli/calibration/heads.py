"""What each head of a model does: how far it looks back, how widely, and how much it rests on the first token.

Shapes: B windows, H query heads, Q queries, K keys; Q = K = the window's length.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.runtime.alibi_rewrite import configs_of
from alibi_cli.runtime.modeling_alibi import AlibiModelMixin
from alibi_cli.slopes import get_slopes


@dataclass(frozen=True)
class HeadStatistics:
    """Each (layers, H) float64, means over the queries of some text.

    distance: E|i - j| in tokens under the attention weights. entropy: of the weights, in nats. first_token: weight on the first token.
    """

    distance: np.ndarray
    entropy: np.ndarray
    first_token: np.ndarray

    def as_json(self) -> dict[str, list[list[float]]]:
        return {
            "mean_distance": self.distance.round(4).tolist(),
            "entropy_nats": self.entropy.round(4).tolist(),
            "first_token_weight": self.first_token.round(4).tolist(),
        }


@torch.no_grad()
def observe_heads(
    model: PreTrainedModel, batches: list[torch.Tensor], on_batch: Callable[[int], None] = lambda n: None
) -> HeadStatistics:
    """Runs a model, original or converted, over (B, L) batches and looks at the attention weights of one layer at a time.

    Raises:
        AlibiError: the family's attention does not give its weights away.
    """
    with _weights_seen(model) as totals:
        for done, batch in enumerate(batches, start=1):
            model(input_ids=batch, use_cache=False, return_dict=True, output_attentions=True)
            on_batch(done)
    if not totals or any(total.queries == 0 for total in totals):
        raise AlibiError(f"The attention of a {type(model).__name__} does not show its weights.", exit_code=EXIT_USAGE)
    return HeadStatistics(*(np.stack([total.mean()[row] for total in totals]) for row in range(3)))


class _Total:
    """Sums of one attention module."""

    def __init__(self) -> None:
        self.sums, self.queries = np.zeros(1), 0

    def add(self, weights: torch.Tensor) -> None:
        """(B, H, Q, K) weights, each row of which sums to one."""
        weights = weights.float()
        position = torch.arange(weights.shape[-1], device=weights.device)
        distance = (position[:, None] - position[None, :]).abs().float()  # (Q, K)
        looked = torch.einsum("bhqk,qk->h", weights, distance)
        entropy = torch.special.entr(weights).sum((0, 2, 3))
        rows = torch.stack([looked, entropy, weights[..., 0].sum((0, 2))])  # (3, H)
        self.sums = self.sums + rows.double().cpu().numpy()
        self.queries += weights.shape[0] * weights.shape[2]

    def mean(self) -> np.ndarray:
        return self.sums / self.queries


@contextmanager
def _weights_seen(model: PreTrainedModel) -> Iterator[list[_Total]]:
    """While it lasts, the weights of every self-attention are added up as they are computed, and forgotten at once."""
    converted = isinstance(model, AlibiModelMixin)
    named = attention_modules(model if converted else _skeleton(model))
    modules = [model.get_submodule(name) for name in named]
    totals = [_Total() for _ in modules]
    handles = [module.register_forward_hook(_hook(total)) for module, total in zip(modules, totals, strict=True)]
    configs = [] if converted else configs_of(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:  # set_attn_implementation does not reach every family
            config._attn_implementation = "eager"
        for module in modules:
            module.alibi_keeps_weights = True
        yield totals
    finally:
        for handle, module in zip(handles, modules, strict=True):
            handle.remove()
            module.__dict__.pop("alibi_keeps_weights", None)
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """The converted model around the same weights, to know its attention modules."""
    config = model.config
    return converted_twin(model, get_slopes(config.num_attention_heads), config.max_position_embeddings or 1)


def _hook(total: _Total) -> Callable[..., Any]:
    def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return output
        kept = []
        for part in output:
            shown = isinstance(part, torch.Tensor) and part.dim() == 4 and part.shape[-1] == part.shape[-2]
            if shown:
                total.add(part)
            kept.append(None if shown else part)
        return type(output)(kept)

    return hook
