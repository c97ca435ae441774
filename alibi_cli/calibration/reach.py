"""Slopes from what lies beyond the range: the gentlest that hide it, head by head, in one forward pass. No gradient is taken.

A rotation that is kept has never been seen at distances beyond the trained length, and what scores it gives there is anybody's guess. So
each head gets the bias -m max(0, d - offset), with the smallest m under which the keys beyond the range R (the trained length, or a horizon
that is asked for) hold no more than a share epsilon of the weight of the queries that have keys there. With an offset of R nothing changes
within the range, to the bit. Layers are fitted in order, so that each sees what the layers before it hand on.

Shapes: B windows, H query heads, S sampled queries, K keys, D head width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.head import BodyAndHead
from alibi_cli.runtime.alibi_sinks import as_if_near, sees_sinks_as_near

EPSILON = 0.001
FAMILIAR_EPSILON = 0.05  # where the range is a horizon, and what lies beyond it is no stranger
QUERIES = 64  # sampled from each window
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
        AlibiError: an attention that is not computed by this package, or windows that end within the range.
    """
    if input_ids.shape[1] <= reach:
        raise AlibiError(f"Windows of {input_ids.shape[1]} tokens do not reach beyond {reach}.", exit_code=EXIT_USAGE)
    modules = list(attention_modules(converted).values())
    gentlest = gentlest_slope(reach, epsilon)
    known: list[list[float]] = state.load("reach") or []
    fitted: list[list[float]] = []

    def watch(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, scaling: float | None, distances: torch.Tensor
    ) -> None:
        slopes = [gentlest] * query.shape[1]
        causal = getattr(distances, "causal", None)
        if len(fitted) < len(known):
            slopes = known[len(fitted)]
        elif causal is not None:  # else a window, which ends within the range
            sinks = getattr(module.config, "alibi_sinks", None) or 0
            offsets = getattr(module, "alibi_offsets", None) or [0.0] * query.shape[1]
            slopes = smallest_slopes(module, query, key, scaling, causal, offsets, sinks, reach, epsilon)
        module.alibi_slopes = slopes
        fitted.append(slopes)
        if state.is_due() or len(fitted) == len(modules):
            state.save("reach", fitted)
        on_layer(len(fitted), len(modules))

    body = BodyAndHead(converted)
    with _watched(modules, watch):
        body.hidden(input_ids.to(converted.device))
    if len(fitted) != len(modules):
        raise AlibiError(
            f"The attention of a {type(converted).__name__} does not show its queries and keys; its slopes cannot be fitted by reach.",
            exit_code=EXIT_USAGE,
        )
    return fitted


def gentlest_slope(reach: int, epsilon: float) -> float:
    """The slope whose bias reaches ln(1 / epsilon) over another range: windows are not endless, and no head is left without an end."""
    return math.log(1 / epsilon) / reach


def smallest_slopes(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    scaling: float | None,
    causal: bool,
    offsets: list[float],
    sinks: int,
    reach: int,
    epsilon: float,
) -> list[float]:
    """query and key (B, H, K, D) -> (H,): for each head the smallest slope under which keys at distances beyond `reach` that are no sinks
    hold, on average over sampled queries, no more than `epsilon` of the weight; STEEPEST if none does, `gentlest_slope` at least."""
    keys, device = key.shape[2], key.device
    sampled = torch.linspace(reach, keys - 1, QUERIES, device=device).round().long().unique()  # (S,)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query[:, :, sampled].float() @ key.float().mT * scaling  # (B, H, S, K)
    if sinks and sees_sinks_as_near(module):
        moved = as_if_near(module, query[:, :, sampled], sampled)
        scores[..., :sinks] = moved.float() @ key[:, :, :sinks].float().mT * scaling
    place = torch.arange(keys, device=device)
    distance = sampled[:, None] - place  # (S, K)
    if causal:
        scores.masked_fill_(distance < 0, -torch.inf)
    distance = distance.abs().float().masked_fill_(place < sinks, 0)
    beyond = (distance > reach).float()
    ramp = (distance - torch.tensor(offsets, device=device)[:, None, None]).clamp_min_(0)  # (H, S, K)
    low = torch.full((len(offsets),), math.log(gentlest_slope(reach, epsilon)), device=device)
    high = torch.full_like(low, math.log(STEEPEST))

    def share(log_slope: torch.Tensor) -> torch.Tensor:
        """(H,): of the weight that lies beyond"""
        total = torch.zeros_like(log_slope)
        for window in scores:  # one at a time: (H, S, K)
            weight = (window - log_slope.exp()[:, None, None] * ramp).softmax(-1)
            total += (weight * beyond).sum(-1).mean(-1)
        return total / len(scores)

    enough = share(low) <= epsilon
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = share(middle) <= epsilon
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    gentle = torch.full_like(high, math.log(gentlest_slope(reach, epsilon)))
    found: list[float] = torch.where(enough, gentle, high).double().exp().tolist()
    return found


@contextmanager
def _watched(modules: list[torch.nn.Module], watch: Callable[..., None]) -> Iterator[None]:
    for module in modules:
        module.alibi_watch = watch
    try:
        yield
    finally:
        for module in modules:
            del module.alibi_watch
