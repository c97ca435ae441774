"""Slopes from what lies beyond the range: the gentlest that hide it, head by head, in one forward pass. No gradient is taken.

A rotation that is kept has never been seen at distances beyond the trained length, and what scores it gives there is anybody's guess. So
each head gets the bias -m max(0, d - offset), with the smallest m under which the keys beyond the range R (the trained length, or a horizon
that is asked for) hold no more than a share epsilon of the weight of the queries that have keys there. With an offset of R nothing changes
within the range, to the bit. Layers are fitted in order, so that each sees what the layers before it hand on. A layer with a sliding window
that ends within the range has nothing to hide, and gets the gentlest slope.

Shapes: B windows, H query heads, S sampled queries, K keys, D head width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.models.body_and_head import BodyAndHead
from alibi_cli.runtime.alibi_distances import HIDDEN, Compact
from alibi_cli.runtime.alibi_sinks import as_if_near, frequencies_of, sees_sinks_as_near, turn_back
from alibi_cli.shapes import Keys, PerHead, Places, Queries, Scores

EPSILON = 0.001
FAMILIAR_EPSILON = 0.05  # where the range is a horizon, and what lies beyond it is no stranger
QUERIES = 64  # sampled from each window, on each side on which they see something
HALVINGS = 24  # of the interval of log-slopes: to less than a thousandth
STEEPEST = 1.0  # a factor e for every token


@torch.no_grad()
def fit_reach(
    converted: PreTrainedModel,
    input_ids: torch.Tensor,
    reach: int,
    epsilon: float = EPSILON,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
    state: State = NOWHERE,
) -> list[list[float]]:
    """Runs (B, T) windows, T > reach, through a converted model with offsets and sinks, and sets its slopes; returns them by layer.

    state: keeps the slopes of layers that are done; a run that was interrupted does not fit them again.

    Raises:
        AlibiError: an attention that is not computed by this package, scores that are not finite, or windows that end within the range.
    """
    if input_ids.shape[1] <= reach:
        raise UsageError(f"Windows of {input_ids.shape[1]} tokens do not reach beyond {reach}.")
    modules = list(attention_modules(converted).values())
    known: list[list[float]] = state.load("reach") or []
    fitted: list[list[float]] = []

    def watch(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        distances: torch.Tensor,
        scaling: float | None,
        softcap: float | None,
        s_aux: torch.Tensor | None,
    ) -> None:
        if len(fitted) < len(known):
            slopes = known[len(fitted)]
        else:
            sinks = getattr(module.config, "alibi_sinks", None) or 0
            offsets = getattr(module, "alibi_offsets", None) or [0.0] * query.shape[1]
            places = sampled_queries(distances, reach, sinks)
            sampled = query[:, :, places]
            scores = _scores(sampled, key, scaling, softcap)
            if sinks and sees_sinks_as_near(module):
                limit = module.config.alibi_sink_distance
                near = as_if_near(module, sampled, turn_back(frequencies_of(module), places, limit, query.dtype))
                scores[..., :sinks] = _scores(near, key[:, :, :sinks], scaling, softcap)
            scores.masked_fill_(~_seen(distances, places)[:, None], -torch.inf)
            slopes = smallest_slopes(scores, places, offsets, sinks, reach, epsilon, s_aux)
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


def gentlest_slope(reach: int, epsilon: float) -> float:
    """The slope whose bias reaches ln(1 / epsilon) over another range: windows are not endless, and no head is left without an end."""
    return math.log(1 / epsilon) / reach


def sampled_queries(distances: torch.Tensor, reach: int, sinks: int) -> torch.Tensor:
    """(S,): positions of queries that have keys beyond `reach` which are no sinks, behind them or, in an encoder, on either side."""
    last = distances.shape[-1] - 1
    behind = torch.linspace(min(reach + sinks + 1, last), last, QUERIES, device=distances.device).round().long()
    if not _seen(distances, behind[:1] * 0)[..., 1:].any():  # the first query sees itself alone: a decoder
        return behind.unique()
    ahead = torch.linspace(0, max(last - reach - 1, 0), QUERIES, device=distances.device).round().long()
    return torch.cat([ahead, behind]).unique()


def smallest_slopes(
    scores: Scores,
    places: Places,
    offsets: list[float],
    sinks: int,
    reach: int,
    epsilon: float,
    s_aux: PerHead | None = None,
) -> list[float]:
    """Scores of queries at `places`, -inf where hidden -> for each head the smallest slope under which keys at
    distances beyond `reach` that are no sinks hold, on average over the queries, no more than `epsilon` of the weight; STEEPEST if none
    does, `gentlest_slope` at least. s_aux: a score of each head that takes part in the softmax and has no key.

    Raises:
        AlibiError: scores that are not finite.
    """
    place = torch.arange(scores.shape[-1], device=scores.device)
    distance = (places[:, None] - place).abs().to(scores.dtype).masked_fill_(place < sinks, 0)  # (S, K)
    beyond = distance > reach
    ramp = (distance - scores.new_tensor(offsets)[:, None, None]).clamp_min_(0)  # (H, S, K)
    gentlest = scores.new_full((len(offsets),), math.log(gentlest_slope(reach, epsilon)))
    low, high = gentlest, torch.full_like(gentlest, math.log(STEEPEST)).maximum(gentlest)

    def share(log_slope: PerHead) -> PerHead:
        """Of the weight that lies beyond."""
        total = torch.zeros_like(log_slope)
        for window in scores:  # one at a time: (H, S, K)
            biased = window - log_slope.exp()[:, None, None] * ramp
            whole = biased.logsumexp(-1, keepdim=True)
            if s_aux is not None:
                whole = torch.logaddexp(whole, s_aux.to(whole.dtype)[:, None, None])
            total += (biased - whole).exp_().mul_(beyond).sum(-1).mean(-1)
        return total / len(scores)

    left = share(gentlest)
    if not left.isfinite().all():
        raise AlibiError("Calibration met attention scores that are not finite.", hint="Look for NaN weights.")
    for _ in range(HALVINGS if (left > epsilon).any() else 0):
        middle = (low + high) / 2
        fits = share(middle) <= epsilon
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    slopes: list[float] = torch.where(left <= epsilon, gentlest, high).double().exp().tolist()
    return slopes


def _scores(query: Queries, key: Keys, scaling: float | None, softcap: float | None) -> Scores:
    """Before the bias, in float32 or better; as many groups of keys as heads."""
    exact = torch.promote_types(query.dtype, torch.float32)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query.to(exact) @ key.to(exact).mT * scaling
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


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
