"""What long work says while it runs. A verb's `progress` is called with each of these; without one the library is silent."""

from collections.abc import Callable
from dataclasses import dataclass

Update = Callable[[str, float, float], None]  # (what is being done, done, of), inside the library
Say = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """what: is being done. done, of: how far it is, in `unit`s; of 0: unknown. note: a remark that should be read, and no step.

    `progress=print` prints it."""

    what: str
    done: float = 0.0
    of: float = 0.0
    unit: str = ""
    note: bool = False

    def __str__(self) -> str:
        if self.note or not self.of:
            return self.what
        return f"{self.what}: {self.done:,.0f} of {self.of:,.0f}{f' {self.unit}' if self.unit else ''}"


Watch = Callable[[Progress], None]


def steps(watch: Watch | None, unit: str = "") -> Update:
    """What is told of steps."""
    if watch is None:
        return lambda *_: None
    return lambda what, done, of: watch(Progress(what, done, of, unit))


def notes(watch: Watch | None) -> Say:
    """What is told of remarks."""
    if watch is None:
        return lambda _: None
    return lambda text: watch(Progress(text, note=True))
