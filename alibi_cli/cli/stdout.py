"""Stdout, which is for results alone: a program that reads JSON from it gets nothing else."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alibi_cli.errors import AlibiError


@contextmanager
def written() -> Iterator[None]:
    """
    Raises:
        AlibiError: stdout is closed, or what it goes to is full.
    """
    if sys.stdout is None or sys.stdout.closed:
        raise AlibiError("Cannot write to stdout: it is closed.")
    try:
        yield
    except BrokenPipeError:  # whoever reads it has seen enough, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - so that Python's own flush at the end does not fail again
        raise AlibiError(f"Cannot write to stdout: {error.strerror}.") from None


def flush() -> None:
    """
    Raises:
        AlibiError: what was printed could not be written.
    """
    if sys.stdout is not None:
        with written():
            sys.stdout.flush()


@contextmanager
def reserved() -> Iterator[None]:
    """Meanwhile, what libraries, plug-ins and their processes print goes to stderr."""
    flush()
    with _descriptor_redirected(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextmanager
def _descriptor_redirected() -> Iterator[None]:
    """As `redirect_stdout`, for what does not print by way of Python."""
    kept = None
    with contextlib.suppress(OSError, ValueError):  # one of the two is closed
        if sys.stdout is not None and sys.stdout.fileno() == 1:
            kept = os.dup(1)
            os.dup2(2, 1)
    try:
        yield
    finally:
        if kept is not None:
            with contextlib.suppress(OSError, TypeError, AttributeError):  # where C's library has another name
                ctypes.CDLL(None).fflush(None)  # what C has printed and kept
            os.dup2(kept, 1)
            os.close(kept)
