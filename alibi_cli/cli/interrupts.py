"""Ctrl-C and SIGTERM, as a batch system sends it: an error of one or two lines that says what is left of the work, and the exit code."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

from alibi_cli.errors import EXIT_INTERRUPTED, AlibiError

EXIT_TERMINATED = 128 + signal.SIGTERM

_received: list[int] = []  # signals
_left: list[Callable[[], str]] = []  # by the command that runs


def listen() -> None:
    """Either signal raises KeyboardInterrupt."""
    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(signal_number: int, frame: object) -> None:
    _received.append(signal_number)
    raise KeyboardInterrupt


def received() -> bool:
    """Libraries turn an interrupt while they are imported into errors of their own."""
    return bool(_received)


def leaves(what: Callable[[], str]) -> None:
    """what: says, once this command was interrupted, what is kept and how to go on."""
    _left.append(what)


def leaves_output(output: Path, kept: Callable[[], str | None] = lambda: None) -> None:
    """Of a command whose output has its name once it is whole. kept: says what there is before; None if there is nothing."""
    before = _identity(output)

    def what() -> str:
        now = _identity(output)
        if now is not None and now != before:
            return f"{output} is whole."
        return kept() or ("Nothing was written." if now is None else f"{output} is as it was.")

    leaves(what)


def leaves_rows(output: Path | None, how: str = "") -> None:
    """Of a command that writes what it has measured, row by row. how: to go on."""

    def what() -> str:
        if output is None:
            return "With `output`, finished rows are kept."
        return (
            f"Finished rows are in {output}{f'; {how}' if how else '.'}" if output.is_file() else "No row was finished."
        )

    leaves(what)


def _identity(path: Path) -> tuple[int, int] | None:
    """Changes when something new takes the name."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def error() -> tuple[AlibiError, int]:
    """What to print, and the exit code."""
    terminated = _received[-1:] == [signal.SIGTERM]
    hint = None
    with contextlib.suppress(Exception):  # what another process removes while it is looked at, a disk that is gone
        hint = _left[-1]() if _left else None
    code = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    return AlibiError("Terminated." if terminated else "Interrupted.", hint), code
