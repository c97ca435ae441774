"""The errors that users see, and the meaning of exit codes.

Messages name a setting in backticks, `max_bias` or `slopes=calibrated`, as Python has it; the command line shows its option instead.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILED = 1  # it ran, and something failed
EXIT_INTERRUPTED = 130
EXIT_USAGE = 2  # bad arguments, a bad preset, an architecture that is not supported

SETTING = re.compile(r"`(\w+)(?:=([^`]+))?`")


class AlibiError(Exception):
    """Something that the user can understand and act on; printed as one or two lines, without a traceback.

    message: what happened, to which file or value. hint: what to do about it.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(AlibiError):
    """It was asked for wrongly: a setting, a preset, or a model that cannot be converted. Nothing was done."""

    exit_code = EXIT_USAGE

    @property
    def setting(self) -> str | None:
        """The setting that the message is about, if it names one."""
        found = SETTING.search(self.message) or SETTING.search(self.hint or "")
        return found[1] if found else None


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
