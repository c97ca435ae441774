"""Runs the commands of console blocks that show output, and writes what they print. `--check` compares instead, figures with a tolerance.

    python scripts/write_console_output.py [--check]

A block shows output if a line of it does not begin with `$ `. The commands of all pages run in one empty folder, a command once. Only
stdout is shown. A line `…` stands for as many lines as it takes.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alibi_cli.text.documents import load_text

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/start/tutorial.md")
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
OF_THE_MACHINE = re.compile(r"(?<= in )[\d.]+ s\b|[\d.]+ \w+ free|(?<= by )[\d.]+e[+-]\d+")
DIGEST = re.compile(r"(?<=sha256 )[0-9a-f]{12}|(?<=set )[0-9a-f]{12}")
RELATIVE, ABSOLUTE = 0.05, 0.005  # other processors add in another order; a figure near zero may change its sign
WIDTH = "100"


def steps(block: str) -> Iterator[tuple[str, str]]:
    """(command, output) of each command of a block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def shown(block: str) -> bool:
    return any(output.strip() for _, output in steps(block))


def python(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def run(command: str, folder: Path) -> str:
    """What a command prints; `alibi` is that of the environment that runs this.

    Raises:
        SystemExit: it failed.
    """
    words = shlex.split(command, comments=True)
    if words[0] != "alibi":
        raise SystemExit(f"Only commands of alibi are run for their output, not: {command}")
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"}
    result = python("-m", "alibi_cli", *words[1:], cwd=folder, env=environment)
    if result.returncode:
        raise SystemExit(f"{command} exited with {result.returncode}: {result.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


def elided(new: str, old: str) -> str:
    """The new output with as many lines before and after a `…` as the old one has."""
    lines, kept = new.splitlines(), old.splitlines()
    if "…" not in kept:
        return new
    place = kept.index("…")
    after = len(kept) - place - 1
    return "\n".join([*lines[:place], "…", *lines[len(lines) - after :], ""])


def same(new: str, old: str, figures: bool = True) -> bool:
    """Text equal; figures nearly, or not compared."""
    one, other = (
        re.sub(r"[ +−-]+", " ", DIGEST.sub("0", OF_THE_MACHINE.sub("0", text))).strip() for text in (new, old)
    )
    if NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return not figures or all(abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b)) for a, b in values)


def main(check: bool) -> None:
    # The embedded text is that of the Python that runs. Of another one's, figures differ, and their places are compared alone.
    figures = load_text().sha256[:12] in (ROOT / "README.md").read_text(encoding="utf-8")
    printed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for page in PAGES:
            path = ROOT / page
            text = path.read_text(encoding="utf-8")
            for block in filter(shown, BLOCK.findall(text)):
                new = ""
                for command, output in steps(block):
                    if command not in printed:
                        printed[command] = run(command, Path(name))
                    found = elided(printed[command], output)
                    new += f"$ {command}\n{found}"
                    if check and not same(found, output, figures):
                        raise SystemExit(f"{page} is stale: `{command}` prints\n{found}")
                text = text.replace(f"```console\n{block}```", f"```console\n{new}```")
            if not check:
                path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(check="--check" in sys.argv)
