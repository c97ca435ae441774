"""Keys at distances that no window holds: those of a window once more, as if they stood farther back.

A rotation gives a query that is turned by r, and a key at a distance d, the score that they would have at d + r. So one window shows what
its heads would make of keys at any distance: what the keys say is what is said in the window, and their distance alone is imagined. A query
at place p sees the p + 1 keys up to itself again from the first distance that is neither in the window nor trained for, then once more
behind these, and so on. In an encoder, queries of the first half see the keys after them, farther ahead.

Shapes: B windows, S sampled queries, K keys.
"""

from dataclasses import dataclass

import torch

from alibi_cli.shapes import Places


@dataclass(frozen=True)
class Farther:
    """trained_length: in tokens, within which no distance is strange. length: of the longest sequences, which the checkpoint declares."""

    trained_length: int
    length: int


@dataclass(frozen=True)
class Copy:
    """The keys of a window once more. distance (S, K) from each query, and by how much, signed, its queries (S,) are `turned`; seen (B or
    1, S, K): within the longest sequences, and by a query on whose side they are."""

    distance: torch.Tensor
    turned: Places
    seen: torch.Tensor


def copies_of(farther: Farther, places: Places, seen: torch.Tensor, sinks: int) -> list[Copy]:
    """For queries at `places` that see (B or 1, S, K) keys, of which the first `sinks` are sinks and have no copies. None where the layer
    hides what is far: what its window hides here, it hides farther away as well."""
    last = seen.shape[-1] - 1
    place = torch.arange(last + 1, device=places.device)
    ahead = seen[:, :, last].all(0) & (2 * places < last)  # (S,): a decoder sees nothing ahead
    if not torch.where(ahead, seen[:, :, last].all(0), seen[:, :, 0].all(0)).all():
        return []
    near = torch.where(ahead[:, None], place - places[:, None], places[:, None] - place)  # below 0: on the other side
    side = torch.where(ahead, last - places, places) + 1
    mine = seen & (near >= 0) & (place >= sinks)
    begin = torch.full_like(side, max(last + 1, farther.trained_length))
    copies = []
    while int(begin.min()) < farther.length:
        distance = near + begin[:, None]
        copies.append(Copy(distance, torch.where(ahead, -begin, begin), mine & (distance < farther.length)))
        begin = begin + side
    return copies
