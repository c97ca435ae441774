"""Several commands in one process, which is started in an environment of its own: python -m tests.cli.under '[["inspect", "slopes"], …]'.

Prints [[exit code, stdout, stderr], …]. Packages that are named after the commands cannot be imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

from tests.cli.run import alibi_inside
from tests.python import python

REPOSITORY = Path(__file__).parents[2]


def under(
    environment: dict[str, str], *commands: Sequence[str | Path], without: Sequence[str] = (), cwd: Path = REPOSITORY
) -> list[tuple[int, str, str]]:
    """Runs `alibi` with each of the commands under environment variables. without: packages whose import fails."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    arguments, variables = ("-m", "tests.cli.under", words, *without), {**os.environ, **environment}
    if without:  # in a process that has not read them before
        variables["PYTHONPATH"] = str(REPOSITORY)
        started = [sys.executable, *arguments]
        result = subprocess.run(started, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    else:
        result = python(*arguments, cwd=cwd, env=variables)
    assert result.returncode == 0, result.stderr
    return [(code, out, err) for code, out, err in json.loads(result.stdout.splitlines()[-1])]


class _Forbidden(MetaPathFinder):
    """Fails to find some packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = set(packages)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ImportError(f"{name} was imported")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Forbidden(sys.argv[2:]))
    found = [alibi_inside(*command, code=None) for command in json.loads(sys.argv[1])]
    sys.stdout.write("\n" + json.dumps([[each.returncode, each.stdout, each.stderr] for each in found]) + "\n")
