"""Writes docs/cli.md from --help, so that it cannot rot. `--check` compares instead and exits 1 if it is stale.

python scripts/write_cli_docs.py [--check]
"""

import os
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
COMMANDS = (
    "",
    "convert",
    "eval",
    "verify",
    "train",
    "inspect",
    "inspect slopes",
    "inspect bias",
    "inspect heads",
    "inspect plan",
    "inspect policies",
    "inspect presets",
    "bench",
    "bench attention",
)


def render() -> str:
    parts = ["# Command line\n", "Generated from `--help` by `make docs`; do not edit.\n"]
    plain = {
        **os.environ,
        "COLUMNS": "140",
        "TERMINAL_WIDTH": "140",
        "NO_COLOR": "1",
        "_TYPER_FORCE_DISABLE_TERMINAL": "1",
    }
    for command in COMMANDS:
        arguments = [sys.executable, "-m", "alibi_cli", *command.split(), "--help"]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True, env=plain).stdout.replace(
            "python -m alibi_cli", "alibi"
        )
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        parts.append(f"## alibi {command}".rstrip() + "\n\n```text\n" + "\n".join(lines).strip() + "\n```\n")
    return "\n".join(parts)


def main() -> None:
    text = render()
    if "--check" in sys.argv:
        if not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text:
            sys.exit(f"{DOCUMENT.name} is stale: run `make docs`.")
        return
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
