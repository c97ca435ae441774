"""Running the command line as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def alibi(
    *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Runs `alibi ARGS`; checks the exit code unless `code` is None."""
    command = [sys.executable, "-m", "alibi_cli", *map(str, args)]
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=600, check=False
    )
    assert code is None or result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def alibi_json(*args: str | Path, **options: Any) -> Any:
    return json.loads(alibi(*args, "--json", **options).stdout)


def alibi_here(*args: str | Path) -> Any:
    """The same inside this process, for speed: exit_code, stdout and stderr as typer's CliRunner has them, an AlibiError as `error`."""
    from typer.testing import CliRunner

    from alibi_cli.cli.app import app
    from alibi_cli.errors import AlibiError

    result = CliRunner().invoke(app, [*map(str, args)])
    if isinstance(result.exception, AlibiError):
        result.exit_code = result.exception.exit_code
        result.error = result.exception
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
