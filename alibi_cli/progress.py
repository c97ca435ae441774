"""What long work says while it runs. A verb's `progress` is called with each of these; without one the library is silent."""

from collections.abc import Callable
from dataclasses import dataclass

from alibi_cli.time_left import Clock, duration, stage_of

Update = Callable[[str, float, float], None]  # (what is being done, done, of), inside the library
Say = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """what: is being done. done, of: how far it is, in `unit`s; of 0: unknown. note: a remark that should be read, and no step.
    per_second: units, where that is worth showing. seconds_left: of the whole run, or of this stage of it; None if that is not known yet.

    `progress=print` prints it."""

    what: str
    done: float = 0.0
    of: float = 0.0
    unit: str = ""
    note: bool = False
    per_second: float | None = None
    seconds_left: float | None = None

    def __str__(self) -> str:
        if self.note or not self.of:
            return self.what
        amount = f"{self.what}: {self.done:,.0f} of {self.of:,.0f}{f' {self.unit}' if self.unit else ''}"
        return ", ".join([amount, *self.pace])

    @property
    def pace(self) -> list[str]:
        """['1,200 tokens/s', '5 min left'], as far as they are known."""
        rate = [] if self.per_second is None else [f"{self.per_second:,.0f} {self.unit}/s"]
        return rate if self.seconds_left is None else [*rate, f"{duration(self.seconds_left)} left"]


Watch = Callable[[Progress], None]


def steps(watch: Watch | None, unit: str = "") -> Update:
    """What is told of steps."""
    if watch is None:
        return lambda *_: None
    clock = Clock()
    return lambda what, done, of: watch(
        Progress(what, done, of, unit, seconds_left=clock.seconds_left(stage_of(what), done, of))
    )


def notes(watch: Watch | None) -> Say:
    """What is told of remarks."""
    if watch is None:
        return lambda _: None
    return lambda text: watch(Progress(text, note=True))
