"""Loading plug-ins for a command: one that fails is named, and the command goes on without it."""

from pathlib import Path

from alibi_cli.cli import output


def load_plugins(files: list[Path] | None) -> None:
    from alibi_cli import plugins

    for problem in plugins.load_plugins(files or ()):
        output.note(problem)
