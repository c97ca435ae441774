"""Writes docs/cli.md from --help, so that it cannot rot. `--check` compares instead and exits 1 if it is stale.

python scripts/write_cli_docs.py [--check]
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when typer and rich are loaded: help as it is, whatever the terminal.
os.environ |= {"COLUMNS": "140", "TERMINAL_WIDTH": "140", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}

import typer
from generated import bring_up_to_date
from typer.testing import CliRunner

from alibi_cli.cli.app import app

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the tree, a group before what is in it."""
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def render() -> str:
    parts = ["# Command line\n", "Generated from `--help` by `make docs`; do not edit.\n"]
    for words in commands(typer.main.get_command(app)):
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="alibi")
        if result.exit_code:
            raise SystemExit(f"alibi {' '.join(words)} --help exited with {result.exit_code}: {result.exception}")
        lines = [line.rstrip() for line in result.stdout.strip("\n").splitlines()]
        parts.append(f"## {' '.join(('alibi', *words))}\n\n```text\n" + "\n".join(lines).strip() + "\n```\n")
    return "\n".join(parts)


def main() -> None:
    bring_up_to_date(DOCUMENT, render())


if __name__ == "__main__":
    main()
