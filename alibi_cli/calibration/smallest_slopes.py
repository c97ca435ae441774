"""The smallest slopes under which some keys of a head hold no more than a share of its weight: by bisection, without a gradient.

Shapes: B windows, H heads, S sampled queries, K keys.
"""

import math
from collections.abc import Callable
from functools import partial

import torch

from alibi_cli.errors import AlibiError
from alibi_cli.shapes import PerHead, Scores

NUMBERS = 1 << 23  # scores that are read at once: of fewer heads and windows where there are many keys
HALVINGS = 12  # of a factor of two: to two parts in ten thousand
STEEPEST = 1.0  # a factor e for every token


def gentlest_slope(reach: int, epsilon: float) -> float:
    """The slope whose bias reaches ln(1 / epsilon) over another range: windows are not endless, and no head is left without an end."""
    return math.log(1 / epsilon) / reach


def smallest_slopes(
    scores: Callable[[slice], Scores],
    windows: int,
    distance: torch.Tensor,
    counted: torch.Tensor,
    offsets: list[float],
    gentlest: list[float],
    epsilon: float,
    s_aux: PerHead | None = None,
) -> list[float]:
    """For each head the smallest slope under which the `counted` keys hold, on average over queries, no more than `epsilon` of the weight;
    STEEPEST if none does, its `gentlest` at least.

    scores: of some heads (B, H, S, K), -inf where hidden. distance (S, K): 0 for sinks. s_aux: a score of each head that takes part in
    the softmax and has no key.

    Raises:
        AlibiError: scores that are not finite.
    """
    found: list[float] = []
    at_once = max(1, NUMBERS // (windows * distance.numel()))
    for begin in range(0, len(offsets), at_once):
        heads = slice(begin, begin + at_once)
        some = scores(heads)
        free = None if s_aux is None else s_aux[heads].to(some.dtype)
        slopes, starts = some.new_tensor(gentlest[heads]), some.new_tensor(offsets[heads])
        left = _share(some, distance, counted, starts, slopes, free)
        if not left.isfinite().all():
            raise AlibiError("Calibration met attention scores that are not finite.", hint="Look for NaN weights.")
        if (todo := left > epsilon).any():
            rest = some[:, todo], distance, counted, starts[todo]
            share = partial(_share, *rest, s_aux=None if free is None else free[todo])
            slopes[todo] = _found(share, slopes[todo], epsilon)
        found += slopes.tolist()
    return found


def _found(share: Callable[[PerHead], PerHead], low: PerHead, epsilon: float) -> PerHead:
    """low: slopes that leave too large a share. They are doubled until they fit, and what lies between is halved."""
    steepest = low.clamp_min(STEEPEST)
    high = low
    while (wanting := (share(high) > epsilon) & (high < steepest)).any():
        low, high = torch.where(wanting, high, low), torch.where(wanting, (2 * high).minimum(steepest), high)
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        fits = share(middle) <= epsilon
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return high


def _share(
    scores: Scores,
    distance: torch.Tensor,
    counted: torch.Tensor,
    offsets: PerHead,
    slopes: PerHead,
    s_aux: PerHead | None,
) -> PerHead:
    """Of the weight of each head that rests on the `counted` keys."""
    ramp = (distance - offsets[:, None, None]).clamp_min_(0).mul_(slopes[:, None, None])  # (H, S, K)
    total = torch.zeros_like(slopes)
    for windows in scores.split(max(1, NUMBERS // ramp.numel())):
        biased = windows - ramp
        whole = biased.logsumexp(-1, keepdim=True)
        if s_aux is not None:
            whole = torch.logaddexp(whole, s_aux[:, None, None])
        total += biased.sub_(whole).exp_().mul_(counted).sum((0, -1)).mean(-1)
    return total / len(scores)
