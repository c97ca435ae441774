"""Writes docs/cli.md from the tree of commands: what `--help` says, as Markdown. `--check` compares instead and exits 1 if it is stale.

python scripts/write_cli_docs.py [--check]
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from generated import bring_up_to_date

from alibi_cli.cli.app import app

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Command line

Written from the commands by `make docs`; `alibi COMMAND --help` says the same. Settings have the same names in [Python](api.md), with
underscores.

Results go to stdout; progress, hints and errors to stderr. Everything that prints a table takes `--json`
([results files and JSON](json.md)).

| exit code | |
|---|---|
| 0 | done, and verified where there is something to verify |
| 1 | it ran, and something failed |
| 2 | bad arguments, or a model that cannot be converted; nothing was written |
| 130 | interrupted |

Errors are one or two lines; `ALIBI_DEBUG=1` shows the traceback.
"""


def commands(command: Any, words: tuple[str, ...] = ("alibi",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the tree, a group before what is in it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def render() -> str:
    parts = [HEAD]
    for words, command in commands(typer.main.get_command(app)):
        parts += [f"## {' '.join(words)}\n", f"{_paragraphs(command.help)}\n"]
        if hasattr(command, "commands"):
            listed = "\n".join(
                f"| [{name}](#{'-'.join((*words, name))}) | {_cell(inner.get_short_help_str(200))} |"
                for name, inner in command.commands.items()
            )
            parts.append(f"| command | |\n|---|---|\n{listed}\n")
            continue
        parts.append(f"```text\n{' '.join((*words, *_usage(command)))}\n```\n")
        if examples := _examples(command.epilog):
            parts.append("```console\n" + "\n".join(f"$ {line}" for line in examples) + "\n```\n")
        parts += [f"{title}\n\n| {head} | |\n|---|---|\n{rows}\n" for title, head, rows in _tables(command)]
    return "\n".join(parts)


def _usage(command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    yield from (f"{p.opts[0]} {_value(p)}" for p in command.params if p.required and p not in arguments)
    yield "[OPTIONS]"
    for argument in arguments:
        name = argument.metavar or argument.name.upper()
        yield name if argument.required or name.startswith("[") else f"[{name}]"


def _examples(epilog: str | None) -> list[str]:
    found = [line.strip() for line in (epilog or "").splitlines()]
    return [line for line in found if line and not line.endswith(":")]


def _tables(command: Any) -> Iterator[tuple[str, str, str]]:
    """(title, head, rows) of the arguments, the options, and every panel of more options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]
    if arguments:
        yield "**Arguments**", "argument", "\n".join(f"| `{_metavar(p)}` | {_what(p)} |" for p in arguments)
    for panel in dict.fromkeys(p.rich_help_panel for p in options):
        rows = [f"| {_option(p)} | {_what(p)} |" for p in options if p.rich_help_panel == panel]
        yield f"**{panel or 'Options'}**", "option", "\n".join(rows)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("{}").replace("|", " or ")


def _option(parameter: Any) -> str:
    value = _value(parameter)
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}`" for name in names) + (f" `{value}`" if value else "")


def _value(parameter: Any) -> str:
    """The metavar: as declared, or by type."""
    if parameter.is_flag:
        return ""
    if parameter.metavar:
        return str(parameter.metavar).replace("|", " or ")
    if hasattr(parameter.type, "choices"):
        return ""  # listed in the text
    kind = str(parameter.type.name)
    return "N" if kind.startswith("int") else "X" if kind.startswith("float") else "PATH" if "path" in kind else "TEXT"


def _what(parameter: Any) -> str:
    text = [_cell(parameter.help or "")]
    if hasattr(parameter.type, "choices"):
        text.append("One of " + ", ".join(f"`{choice}`" for choice in parameter.type.choices) + ".")
    if getattr(parameter, "show_default", False) and parameter.default is not None and parameter.default is not False:
        flag = parameter.opts[0] if parameter.default is True else parameter.default
        text.append(f"Default: `{flag}`.")
    if parameter.required:
        text.append("Required.")
    return " ".join(text)


def _cell(text: str) -> str:
    """Text for a table: no vertical line, no formula that could be read as emphasis."""
    text = re.sub(r"-m max\(0, \|i - j\| - N\)", "−m · max(0, distance − N)", " ".join(text.split()))
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def main() -> None:
    bring_up_to_date(DOCUMENT, render())


if __name__ == "__main__":
    main()
