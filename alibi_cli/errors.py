"""The one error that users see, and the meaning of exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILED = 1  # it ran, and something failed
EXIT_INTERRUPTED = 130
EXIT_USAGE = 2  # bad arguments, a bad preset, an architecture that is not supported


class AlibiError(Exception):
    """Something that the user can understand and act on; printed as one or two lines, without a traceback.

    message: what happened, to which file or value. hint: what to do about it. exit_code: EXIT_FAILED or EXIT_USAGE.
    """

    def __init__(self, message: str, hint: str | None = None, exit_code: int = EXIT_FAILED):
        super().__init__(message)
        self.message, self.hint, self.exit_code = message, hint, exit_code


@contextmanager
def explained(doing: str, hint: str | None = None) -> Iterator[None]:
    """An OSError inside becomes an AlibiError: `doing` and the system's reason, as in "Cannot write out: No space left on device."."""
    try:
        yield
    except OSError as error:
        raise AlibiError(f"{doing}: {error.strerror or first_line(error)}.", hint) from error


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
