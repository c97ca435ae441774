"""Several commands in one process, which is started in an environment of its own: python -m tests.cli.under '[["inspect", "slopes"], …]'.

Prints [[exit code, stdout, stderr], …].
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cli.run import alibi_inside
from tests.python import python

REPOSITORY = Path(__file__).parents[2]


def under(environment: dict[str, str], *commands: Sequence[str | Path]) -> list[tuple[int, str, str]]:
    """Runs `alibi` with each of the commands under environment variables."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    result = python("-m", "tests.cli.under", words, cwd=REPOSITORY, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return [(code, out, err) for code, out, err in json.loads(result.stdout.splitlines()[-1])]


if __name__ == "__main__":
    found = [alibi_inside(*command, code=None) for command in json.loads(sys.argv[1])]
    sys.stdout.write("\n" + json.dumps([[each.returncode, each.stdout, each.stderr] for each in found]) + "\n")
