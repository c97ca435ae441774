"""Stdout, which is for results: what else is printed while a verb works goes to stderr, so that JSON can be read from it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

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
    """Meanwhile, what libraries, plug-ins and their processes print goes to stderr, or nowhere if that is closed."""
    flush()
    with contextlib.ExitStack() as stack:
        elsewhere = sys.stderr or stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        stack.enter_context(_descriptor_redirected(elsewhere))
        stack.enter_context(contextlib.redirect_stdout(elsewhere))
        yield


@contextmanager
def _descriptor_redirected(elsewhere: TextIO) -> Iterator[None]:
    """As `redirect_stdout`, for what does not print by way of `sys.stdout`."""
    own, kept = sys.stdout, None
    with contextlib.suppress(OSError, ValueError):  # one of the two is closed, or no file
        if own is not None and own.fileno() == 1:
            target = elsewhere.fileno()
            kept = os.dup(1)
            os.dup2(target, 1)
    try:
        yield
    finally:
        if kept is not None:
            _flush_what_others_kept(own)
            os.dup2(kept, 1)
            os.close(kept)


def _flush_what_others_kept(own: TextIO) -> None:
    """What was written to Python's own stream, or by C, and has not left yet."""
    with contextlib.suppress(OSError, ValueError):
        own.flush()
    with contextlib.suppress(ImportError, OSError, TypeError, AttributeError):  # C's library has another name there
        import ctypes

        ctypes.CDLL(None).fflush(None)
