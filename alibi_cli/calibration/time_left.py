"""What a calibration says while it runs."""

import time

from alibi_cli.progress import Say, Update

LONG = 20.0  # seconds to come that are worth a line


def with_time_left(update: Update, say: Say) -> Update:
    """`update`, which also tells `say` once for each stage, after its first step, how long the rest will take."""
    stages: dict[str, tuple[float, float]] = {}  # first word: when it began, and how much was done then
    told: set[str] = set()

    def watching(what: str, done: float, of: float) -> None:
        stage, now = what.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0], time.monotonic()
        began, before = stages.setdefault(stage, (now, done))
        if done > before and stage not in told:
            told.add(stage)
            left = (now - began) / (done - before) * (of - done)
            if left > LONG:
                time_left = f"about {left / 60:.0f} minutes" if left > 90 else f"{left:.0f} s"
                say(f"{what.split(',', maxsplit=1)[0]}: {time_left} to come.")
        update(what, done, of)

    return watching


class Sparkline:
    """The last values as a row of blocks."""

    BLOCKS = "▁▂▃▄▅▆▇█"

    def __init__(self, width: int = 24):
        self.values: list[float] = []
        self.width = width

    def add(self, value: float) -> str:
        self.values.append(value)
        every = max(1, len(self.values) // self.width)
        shown = self.values[::every][-self.width :]
        low, high = min(shown), max(shown)
        span = (high - low) or 1.0
        return "".join(self.BLOCKS[min(7, int(8 * (v - low) / span))] for v in shown)
