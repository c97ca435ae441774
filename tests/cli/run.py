"""Running the command line as a user does, in a process of its own, and within this one, which spares the imports."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tests.python import python


def alibi(
    *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Runs `alibi ARGS`; checks the exit code unless `code` is None."""
    return _checked(python("-m", "alibi_cli", *args, cwd=cwd, env={**os.environ, **(env or {})}), code)


def alibi_inside(*args: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The same within this process."""
    from alibi_cli.cli.app import main

    before, handler = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = ["alibi", *map(str, args)]
    try:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                main()
                returned = 0
            except SystemExit as end:
                returned = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)
    return _checked(subprocess.CompletedProcess(list(args), returned, out.getvalue(), err.getvalue()), code)


def _checked(result: subprocess.CompletedProcess[str], code: int | None) -> subprocess.CompletedProcess[str]:
    assert code is None or result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def alibi_json(*args: str | Path, run: Callable[..., subprocess.CompletedProcess[str]] = alibi, **options: Any) -> Any:
    return json.loads(run(*args, "--json", **options).stdout)


def alibi_here(*args: str | Path) -> Any:
    """The same inside this process, for speed: exit_code, stdout and stderr as typer's CliRunner has them, an AlibiError as `error`."""
    from typer.testing import CliRunner

    from alibi_cli.cli.app import app
    from alibi_cli.cli.options import in_options
    from alibi_cli.errors import AlibiError

    result = CliRunner().invoke(app, [*map(str, args)])
    if isinstance(result.exception, AlibiError):
        error = result.exception
        result.exit_code = error.exit_code
        result.error = type(error)(in_options(error.message), error.hint and in_options(error.hint))
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
