"""How long the rest of a run will take, from its pace so far: the one clock of every command."""

import time
from collections.abc import Callable

LONG = 20.0  # seconds to come that are worth a line


class Clock:
    """Counts by time.monotonic, so that a clock that is set meanwhile changes nothing."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, float]] = {}  # stage: when it began, and how much was done then

    def seconds_left(self, stage: str, done: float, of: float) -> float | None:
        """Of a stage of which so much is done; None until its first step has shown a pace."""
        now = time.monotonic()
        began, before = self._began.setdefault(stage, (now, done))
        return (now - began) / (done - before) * max(0.0, of - done) if done > before else None


def stage_of(what: str) -> str:
    """'Distilling, KL 0.1' -> 'Distilling': steps of one stage differ in what follows its first word."""
    return what.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0]


def duration(seconds: float) -> str:
    """42 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def announcing(update: Callable[[str, float, float], None], say: Callable[[str], None]) -> Callable[..., None]:
    """`update`, which also tells `say` once for each stage, after its first step, how long the rest will take."""
    clock, told = Clock(), set()

    def watching(what: str, done: float, of: float) -> None:
        stage = stage_of(what)
        left = clock.seconds_left(stage, done, of)
        if left is not None and stage not in told:
            told.add(stage)
            if left > LONG:
                say(f"{what.split(',', maxsplit=1)[0]}: about {duration(left)} left.")
        update(what, done, of)

    return watching
