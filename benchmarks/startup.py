"""How long the commands take that need no model, beside what they are made of.

The arms take turns; each is the least of many runs. Ratios are of processor time, which other processes disturb least; seconds are
wall time.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.claims import Claim

IMPORTS = "import typer, rich"
COMMANDS = {"alibi --help": 0.3, "alibi inspect slopes --json": 0.35}  # and the seconds they may take
RATIO = 1.6


def measure(short: bool, repeats: int = 0) -> Iterator[Claim]:
    arms = {IMPORTS: ["-c", IMPORTS]}
    arms |= {command: ["-m", "alibi_cli", *command.split()[1:]] for command in COMMANDS}
    least = {name: (float("inf"), float("inf")) for name in arms}
    for _ in range(repeats or (10 if short else 30)):
        for name, arguments in arms.items():
            found = _run(arguments)
            least[name] = (min(least[name][0], found[0]), min(least[name][1], found[1]))
    for command, seconds in COMMANDS.items():
        wall, processor = least[command]
        yield Claim(claim=command, against=IMPORTS, unit="s", ours=processor, baseline=least[IMPORTS][1], target=RATIO)
        yield Claim(claim=command, against="what it may take", unit="s", ours=wall, baseline=seconds, target=1.0)


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds of wall time and of processor time."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return wall, used.ru_utime + used.ru_stime
