"""Which of the processes that `torchrun` or `accelerate launch` started together is this one?"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """index: of `count` processes. local_index: the same, counted on its own machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0


def place() -> Place:
    """Some schedulers set a rank for every container; only a launcher also says which process of a machine it is."""
    rank, count, local = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not (rank.isdigit() and count.isdigit() and local.isdigit()) or int(count) < 2:
        return Place()
    return Place(int(rank), int(count), int(local))
