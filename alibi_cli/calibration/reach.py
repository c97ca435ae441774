"""Slopes from what lies beyond the range: the gentlest that hide it, head by head, in one forward pass. No gradient is taken.

A model has not learned what scores a kept rotation gives at distances beyond the trained length. So each head gets the bias
-m max(0, d - offset), with the smallest m under which the keys beyond the range R (the trained length, or a horizon that is asked for) hold
no more than a share epsilon of the weight of the queries that have keys there. With an offset of R nothing changes within the range, to the
bit. Layers are fitted in order, so that each sees what the layers before it hand on. A layer with a sliding window that ends within the
range has nothing to hide, and gets the gentlest slope.

A window ends long before the length that a checkpoint declares. The scores of distances that no window holds are extrapolated
(`extrapolation.py`), and their keys get a share of their own.

Shapes: B windows, H query heads, S sampled queries, K keys, D head width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.extrapolation import Beyond, copies_of, sees_ends
from alibi_cli.calibration.smallest_slopes import gentlest_slope, smallest_slopes
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.errors import UsageError
from alibi_cli.models.body_and_head import BodyAndHead
from alibi_cli.runtime.alibi_distances import HIDDEN, Compact
from alibi_cli.runtime.alibi_sinks import frequencies_of, sees_sinks_as_near, turn_back, turn_by, turn_query
from alibi_cli.shapes import Keys, PerHead, Queries, Scores

EPSILON = 0.0001
FAMILIAR_EPSILON = 0.05  # where the range is a horizon, and the model knows the distances beyond it
QUERIES = 64  # sampled from each window, on each side on which they see something
FAR_QUERIES = 16  # of the sampled ones, for distances that are extrapolated
NEGLIGIBLE = 200.0  # nats of bias, for which no score makes up: farther away nothing is extrapolated


@torch.no_grad()
def fit_reach(
    converted: PreTrainedModel,
    input_ids: torch.Tensor,
    reach: int,
    epsilon: float = EPSILON,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
    state: State = NOWHERE,
    beyond: Beyond | None = None,
) -> list[list[float]]:
    """Runs (B, T) windows, T > reach, through a converted model with offsets and sinks, and sets its slopes; returns them by layer.

    beyond: distances that are extrapolated; their keys are to hold no more than EPSILON of the weight, whatever `epsilon` is.
    state: keeps the slopes of layers that are done; a run that was interrupted does not fit them again.

    Raises:
        AlibiError: an attention that is not computed by this package, scores that are not finite, or windows that end within the range.
    """
    if input_ids.shape[1] <= reach:
        raise UsageError(f"Windows of {input_ids.shape[1]} tokens do not reach beyond {reach}.")
    modules = list(attention_modules(converted).values())
    known: list[list[float]] = state.load("reach") or []
    fitted: list[list[float]] = []

    def watch(module: Any, *attended: Any) -> None:
        done, layer = len(fitted), Layer(module, *attended)
        slopes = known[done] if done < len(known) else _slopes_of(layer, reach, epsilon, beyond)
        module.alibi_slopes = slopes
        fitted.append(slopes)
        if state.is_due() or len(fitted) == len(modules):
            state.save("reach", fitted)
        on_layer(len(fitted), len(modules))

    body = BodyAndHead(converted)
    with _watched(modules, watch):
        body.hidden(input_ids.to(converted.device))
    if len(fitted) != len(modules):
        raise UsageError(
            f"The attention of a {type(converted).__name__} does not show its queries and keys; its slopes cannot be fitted by reach.",
        )
    return fitted


@dataclass(frozen=True)
class Layer:
    """What the attention of a layer is called with: as many groups of keys as heads, scores before the bias."""

    module: Any
    query: Queries
    key: Keys
    distances: torch.Tensor
    scaling: float
    softcap: float | None
    s_aux: PerHead | None
    window: int | None  # tokens that its queries see, where the attention is told

    @property
    def sinks(self) -> int:
        return getattr(self.module.config, "alibi_sinks", None) or 0

    @property
    def offsets(self) -> list[float]:
        return getattr(self.module, "alibi_offsets", None) or [0.0] * self.query.shape[1]

    def scores(self, query: Queries, key: Keys) -> Scores:
        """In float32 or better."""
        exact = torch.promote_types(query.dtype, torch.float32)
        scores = query.to(exact) @ key.to(exact).mT * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


def _slopes_of(layer: Layer, reach: int, epsilon: float, beyond: Beyond | None) -> list[float]:
    sinks, offsets, key = layer.sinks, layer.offsets, layer.key
    places = sampled_queries(layer.distances, reach, sinks)
    sampled = layer.query[:, :, places]
    scores = layer.scores(sampled, key)
    if sinks and sees_sinks_as_near(layer.module):
        limit = layer.module.config.alibi_sink_distance
        turn = turn_back(frequencies_of(layer.module), places, limit, sampled.dtype)
        scores[..., :sinks] = layer.scores(turn_query(layer.module, sampled, turn), key[:, :, :sinks])
    seen = _seen(layer.distances, places)
    scores.masked_fill_(~seen[:, None], -torch.inf)
    place = torch.arange(key.shape[2], device=places.device)
    distance = (places[:, None] - place).abs().to(scores.dtype).masked_fill_(place < sinks, 0)  # (S, K)
    gentlest = [gentlest_slope(reach, epsilon)] * len(offsets)
    slopes = smallest_slopes(
        lambda heads: scores[:, heads], len(scores), distance, distance > reach, offsets, gentlest, epsilon, layer.s_aux
    )
    if beyond is None or not hasattr(layer.module, "alibi_rotation") or not sees_ends(places, seen):
        return slopes
    few = slice(None, None, -(-len(places) // FAR_QUERIES))
    end = min(beyond.length, math.ceil(max(offsets) + NEGLIGIBLE / min(slopes)), layer.window or beyond.length)
    copies = copies_of(Beyond(beyond.trained_length, end), places[few], seen[:, few], sinks)
    if not copies:
        return slopes
    frequencies = frequencies_of(layer.module)

    def with_copies(heads: slice) -> Scores:
        queries = sampled[:, heads, few]
        parts = [scores[:, heads, few]]
        for copy in copies:
            far = turn_query(layer.module, queries, turn_by(frequencies, copy.turned, queries.dtype))
            parts.append(layer.scores(far, key[:, heads]).masked_fill_(~copy.seen[:, None], -torch.inf))
        return torch.cat(parts, dim=-1)

    distance = torch.cat([distance[few], *(copy.distance.to(scores.dtype) for copy in copies)], dim=-1)
    extrapolated = torch.arange(distance.shape[-1], device=places.device) >= len(place)
    return smallest_slopes(with_copies, len(scores), distance, extrapolated, offsets, slopes, EPSILON, layer.s_aux)


def sampled_queries(distances: torch.Tensor, reach: int, sinks: int) -> torch.Tensor:
    """(S,): positions of queries that have keys beyond `reach` which are no sinks, behind them or, in an encoder, on either side."""
    last = distances.shape[-1] - 1
    behind = torch.linspace(min(reach + sinks + 1, last), last, QUERIES, device=distances.device).round().long()
    if not _seen(distances, behind[:1] * 0)[..., 1:].any():  # the first query sees itself alone: a decoder
        return behind.unique()
    ahead = torch.linspace(0, max(last - reach - 1, 0), QUERIES, device=distances.device).round().long()
    return torch.cat([ahead, behind]).unique()


def _seen(distances: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B or 1, S, K) booleans: which keys the queries at `places` see, by what `alibi_distances` made, without its Q x K entries."""
    if not isinstance(distances, Compact):
        return distances[:, 0, places] != HIDDEN
    key = torch.arange(distances.shape[-1], device=places.device)
    if distances.causal is not None:
        return ((key <= places[:, None]) | (not distances.causal))[None]
    seen = torch.zeros(distances.shape[0], len(places), len(key), dtype=torch.bool, device=places.device)
    for index, place in enumerate(places.tolist()):
        number, row = divmod(
            len(key) - 1 - place, distances.block
        )  # blocks, and rows in them, are counted from the end
        for batch, begin, end, of_block, *_ in distances.spans[number]:
            gaps = isinstance(of_block, torch.Tensor)
            seen[batch, index, begin:end] = of_block[0, 0, row] if gaps else (key[begin:end] <= place) | (not of_block)
    return seen


@contextmanager
def _watched(modules: list[Any], watch: Callable[..., None]) -> Iterator[None]:
    for module in modules:
        module.alibi_watch = watch
    try:
        yield
    finally:
        for module in modules:
            del module.alibi_watch
