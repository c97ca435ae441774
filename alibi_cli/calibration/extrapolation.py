"""Distances that no calibration window holds, extrapolated by the rotation.

A rotation gives a query that is turned by r, and a key at a distance d, the score that they would have at the distance d + r. So one window
shows what its heads would make of its keys at any distance. The p + 1 keys up to the query at place p are repeated from the first distance
on that is neither in the window nor below the trained length, then again behind these, up to the declared length. In an encoder, queries
of the first half see the keys after them repeated ahead.

Shapes: B windows, S sampled queries, K keys.
"""

from dataclasses import dataclass

import torch

from alibi_cli.shapes import Places


@dataclass(frozen=True)
class Beyond:
    """trained_length: distances below it need no extrapolation. length: of the longest sequences; distances end below it."""

    trained_length: int
    length: int


@dataclass(frozen=True)
class Copy:
    """The keys of a window, repeated. distance (S, K) from each query; turned (S,): by how many tokens each query is turned, below zero for
    keys ahead of it; seen (B or 1, S, K): which of the keys count."""

    distance: torch.Tensor
    turned: Places
    seen: torch.Tensor


def copies_of(beyond: Beyond, places: Places, seen: torch.Tensor, sinks: int) -> list[Copy]:
    """For queries at `places` that see (B or 1, S, K) keys, of which the first `sinks` are sinks and are not repeated."""
    last = seen.shape[-1] - 1
    place = torch.arange(last + 1, device=places.device)
    ahead = _ahead(places, seen)
    near = torch.where(ahead[:, None], place - places[:, None], places[:, None] - place)  # below zero on the other side
    visible = seen & (near >= 0) & (place >= sinks)
    period = torch.where(ahead, last - places, places) + 1  # keys on the side of the query, itself included
    shift = torch.full_like(period, max(last + 1, beyond.trained_length))
    copies = []
    while int(shift.min()) < beyond.length:
        distance = near + shift[:, None]
        copies.append(Copy(distance, torch.where(ahead, -shift, shift), visible & (distance < beyond.length)))
        shift = shift + period
    return copies


def sees_ends(places: Places, seen: torch.Tensor) -> bool:
    """Whether all queries at `places` see the end of the window on their side. What a layer hides here, it hides farther away as well."""
    return bool(torch.where(_ahead(places, seen), seen[:, :, -1].all(0), seen[:, :, 0].all(0)).all())


def _ahead(places: Places, seen: torch.Tensor) -> torch.Tensor:
    """(S,): whether a query's side is ahead of it; a decoder sees nothing there."""
    return seen[:, :, -1].all(0) & (2 * places < seen.shape[-1] - 1)
