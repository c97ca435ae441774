"""Ends processes with SIGKILL at chosen moments: after so many bytes were written, or before or after the n-th change of the file system.

No part of the package: `arm` wraps what Python writes and copies files with, and counts.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

KERNEL = {"copy_file_range": 2, "sendfile": 3}  # which argument says how many bytes
CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


class Meter:
    """bytes: written so far. changes: calls so far that change the file system otherwise, or flush it."""

    def __init__(
        self, at_byte: int | None = None, at_change: float | None = None, kill: Callable[[], None] | None = None
    ):
        """at_byte: end this process when so many bytes are written. at_change: n - 0.5 ends it just before the n-th change, n after it."""
        self.bytes, self.changes = 0, 0
        self.at_byte, self.at_change = at_byte, at_change
        self.kill = kill or (lambda: os.kill(os.getpid(), signal.SIGKILL))

    def around(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **options: Any) -> Any:
            if self.at_change is not None and self.at_change <= self.changes + 0.5:
                self.kill()
            result = change(*args, **options)
            self.changes += 1
            if self.at_change is not None and self.at_change <= self.changes:  # threads may count two at once
                self.kill()
            return result

        return changed

    def through(self, copy: Callable[..., int], place: int) -> Callable[..., int]:
        """A call that lets the kernel copy up to so many bytes."""

        def copied(*args: int) -> int:
            left = args[place] if self.at_byte is None else max(0, self.at_byte - self.bytes)
            if left < args[place]:  # several threads may have come past that byte at once
                copy(*args[:place], left, *args[place + 1 :])
                self.kill()
            n = copy(*args)
            self.bytes += n
            return n

        return copied


class Counted:
    """A file that is written to until the meter says stop; what was written before is handed to the kernel."""

    def __init__(self, file: Any, meter: Meter):
        self.file, self.meter = file, meter

    def write(self, content: Any) -> int:
        left = len(content) if self.meter.at_byte is None else max(0, self.meter.at_byte - self.meter.bytes)
        if left < len(content):
            self.file.write(content[:left])
            self.file.flush()
            self.meter.kill()
        self.meter.bytes += len(content)
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Counted":
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)


def arm(meter: Meter) -> Callable[[], None]:
    """Counts what this process does from now on; returns what undoes that."""
    real_open, real = Path.open, {name: getattr(os, name) for name in (*CHANGES, *KERNEL)}

    def opening(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = real_open(self, mode, *args, **options)
        return Counted(file, meter) if set(mode) & set("wxa") else file

    Path.open = opening
    for name, call in real.items():
        setattr(os, name, meter.around(call) if name in CHANGES else meter.through(call, KERNEL[name]))

    def disarm() -> None:
        Path.open = real_open
        for name, change in real.items():
            setattr(os, name, change)

    return disarm


def in_child(work: Callable[[], object], meter: Meter) -> bool:
    """Runs `work` in a process of its own, forked from this one; True if the meter ended it, False if it came to its end.

    Raises:
        RuntimeError: it failed.
    """
    child = os.fork()
    if child == 0:
        code = 3
        try:
            arm(meter)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise RuntimeError(f"the child failed with status {status}")
    return False


def moments(work: Callable[[], object], n_bytes: int) -> list[dict[str, float]]:
    """Arguments of Meter: `n_bytes` places spread over the bytes that `work` writes, and before and after each of its changes."""
    meter = Meter()
    disarm = arm(meter)
    try:
        work()
    finally:
        disarm()
    places = [{"at_byte": meter.bytes * index // n_bytes} for index in range(n_bytes)]
    return [*places, *({"at_change": change / 2} for change in range(1, 2 * meter.changes + 1))]
