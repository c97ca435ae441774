"""What each head of a model does: how far it looks back, how widely, and how much of its attention rests on the first tokens.

Trained language models put a large share of the weight of many heads on the first tokens of their context, whatever these say: attention
sinks (Xiao et al. 2023, arXiv 2309.17453). A key there is hundreds of tokens away, so a head that reads its ten nearest tokens and rests on
the sinks has a mean distance of hundreds. The distance without the sinks is how far it reads.

Shapes: B windows, H query heads, Q queries, K keys, N sinks; Q = K = the window's length.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.errors import UsageError
from alibi_cli.runtime.alibi_rewrite import configs_of
from alibi_cli.runtime.modeling_alibi import AlibiModelMixin
from alibi_cli.shapes import PerHead, Scores
from alibi_cli.slopes import get_slopes

BLOCK = 1 << 14  # products in a float32 sum
LEADING = 8  # first tokens that may be sinks


@dataclass(frozen=True)
class HeadStatistics:
    """Each array (layers, H) float64, over all queries of some text.

    distance: mean of E|i - j| in tokens under the attention weights. entropy: of the weights, in nats. first_token: weight on the first
    token of the window. sink_weight: weight on its first `sinks` tokens. distance_without_sinks: E|i - j| over the other keys, NaN for a
    head that gives them no weight at all; `distance` itself where sinks is 0. leading: (LEADING,), mean over layers, heads and the second
    half of the queries of the weight on each of the first tokens.
    """

    distance: np.ndarray
    entropy: np.ndarray
    first_token: np.ndarray
    sink_weight: np.ndarray
    distance_without_sinks: np.ndarray
    sinks: int
    leading: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """A map is a list per layer of one figure per head; null stands for NaN."""
        without = self.distance_without_sinks.round(4).tolist()
        return {
            "sinks": self.sinks,
            "mean_distance": self.distance.round(4).tolist(),
            "mean_distance_without_sinks": [[None if math.isnan(each) else each for each in row] for row in without],
            "entropy_nats": self.entropy.round(4).tolist(),
            "first_token_weight": self.first_token.round(4).tolist(),
            "sink_weight": self.sink_weight.round(4).tolist(),
        }


@torch.no_grad()
def observe_heads(
    model: PreTrainedModel,
    batches: list[torch.Tensor],
    on_batch: Callable[[int], None] = lambda n: None,
    sinks: int = 0,
) -> HeadStatistics:
    """Runs a model, original or converted, over (B, L) batches and looks at the attention weights of one layer at a time.

    Raises:
        AlibiError: the family's attention does not give its weights away.
        ValueError: `sinks` is negative.
    """
    if sinks < 0:
        raise ValueError(f"sinks is {sinks}; it cannot be negative.")
    with _weights_seen(model, sinks) as totals:
        for done, batch in enumerate(batches, start=1):
            # The body alone: logits over a large vocabulary would take more time and memory than all of the attention.
            model.base_model(input_ids=batch, use_cache=False, return_dict=True, output_attentions=True)
            on_batch(done)
    if not totals or any(total.queries == 0 for total in totals):
        raise UsageError(f"The attention of a {type(model).__name__} does not show its weights.")
    distance, entropy, first_token, sink_weight = np.stack([total.means() for total in totals], axis=1)
    without = distance if sinks == 0 else np.stack([total.distance_without_sinks() for total in totals])
    leading = np.mean([total.leading() for total in totals], axis=0)
    return HeadStatistics(distance, entropy, first_token, sink_weight, without, sinks, leading)


class _Total:
    """Sums over the queries of one attention module, (6, H): distance, entropy, weight on the first token and on the sinks; distance and
    weight without the sinks."""

    def __init__(self, sinks: int) -> None:
        self.sinks, self.sums, self.queries = sinks, np.zeros(1), 0
        self.on_leading, self.late_queries = np.zeros(LEADING), 0

    def add(self, weights: Scores) -> None:
        """Each row of the weights sums to one."""
        weights = weights.float()
        position = torch.arange(weights.shape[-1], device=weights.device)
        distance = (position[:, None] - position[None, :]).abs().float()  # (Q, K)
        looked = torch.einsum(
            "bhqk,qk->h", weights, distance
        )  # not `_summed`: slopes of older look-backs come out to the last bit
        entropy = torch.special.entr(weights).sum((0, 2, 3))
        on_sinks = weights[..., : self.sinks].sum((0, 2, 3))
        distance[:, : self.sinks] = 0
        looked_without = _summed(weights, distance)
        # Summed and not 1 - on_sinks, in which rounding would be all that is left of a small remainder.
        off_sinks = weights[..., self.sinks :].sum((0, 2, 3))
        rows = [looked, entropy, weights[..., 0].sum((0, 2)), on_sinks, looked_without, off_sinks]
        self.sums = self.sums + np.stack([row.cpu().double().numpy() for row in rows])
        self.queries += weights.shape[0] * weights.shape[2]
        late = weights[:, :, weights.shape[2] // 2 :, :LEADING]
        on_each = late.mean(1).sum((0, 1)).cpu().double().numpy()
        self.on_leading[: len(on_each)] += on_each
        self.late_queries += late.shape[0] * late.shape[2]

    def means(self) -> np.ndarray:
        """(4, H)"""
        return self.sums[:4] / self.queries

    def leading(self) -> np.ndarray:
        """(LEADING,)"""
        return self.on_leading / self.late_queries

    def distance_without_sinks(self) -> np.ndarray:
        """(H,) sum over queries and keys that are no sinks of w_ij |i - j|, divided by the sum of w_ij.

        So each query counts by the weight that it gives to other keys than sinks. If all counted the same, a query with a millionth of its
        weight there, which does nothing to the output and in 16 bits is mostly rounding, would say as much as one that reads. A query that
        sees sinks alone has no weight and drops out.
        """
        looked, weight = self.sums[4:]
        return np.divide(looked, weight, out=np.full_like(looked, np.nan), where=weight > 0)


def _summed(weights: Scores, measure: torch.Tensor) -> PerHead:
    """Sums of the products of weights and a measure (Q, K).

    In blocks: one float32 sum over the million products of a window of 1,024 tokens is off by up to 3e-4, these by 4e-6.
    """
    blocks = zip(weights.flatten(2).split(BLOCK, dim=-1), measure.flatten().split(BLOCK), strict=True)
    return torch.stack([part @ of_part for part, of_part in blocks]).cpu().double().sum((0, 1))


@contextmanager
def _weights_seen(model: PreTrainedModel, sinks: int) -> Iterator[list[_Total]]:
    """While it lasts, the weights of every self-attention are added up as they are computed, and forgotten at once."""
    converted = isinstance(model, AlibiModelMixin)
    named = attention_modules(model if converted else _skeleton(model))
    modules: list[Any] = [model.get_submodule(name) for name in named]
    totals = [_Total(sinks) for _ in modules]
    handles = [module.register_forward_hook(_hook(total)) for module, total in zip(modules, totals, strict=True)]
    configs = [] if converted else configs_of(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:  # set_attn_implementation does not reach every family
            config._attn_implementation = "eager"
        yield totals
    finally:
        for handle in handles:
            handle.remove()
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
