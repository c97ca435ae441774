"""Writes docs/cli.md from --help, so that it cannot rot. `--check` compares instead and exits 1 if it is stale.

python scripts/write_cli_docs.py [--check]
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when typer and rich are loaded: help as it is, whatever the terminal.
os.environ |= {"COLUMNS": "140", "TERMINAL_WIDTH": "140", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}

import typer
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
    text = render()
    if "--check" in sys.argv:
        if not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text:
            sys.exit(f"{DOCUMENT.name} is stale: run `make docs`.")
        return
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
