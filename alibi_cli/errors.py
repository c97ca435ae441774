"""The one error that users see, and the meaning of exit codes."""

EXIT_FAILED = 1  # it ran, and something failed
EXIT_USAGE = 2  # bad arguments, a bad preset, an architecture that is not supported


class AlibiError(Exception):
    """Something that the user can understand and act on; printed as one or two lines, without a traceback.

    message: what happened, to which file or value. hint: what to do about it. exit_code: EXIT_FAILED or EXIT_USAGE.
    """

    def __init__(self, message: str, hint: str | None = None, exit_code: int = EXIT_FAILED):
        super().__init__(message)
        self.message, self.hint, self.exit_code = message, hint, exit_code
