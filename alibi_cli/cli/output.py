"""Everything that is printed. Results go to stdout; progress, hints and errors to stderr.

Rich is imported when it is first needed. Of several processes that were launched together, the first one prints.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alibi_cli.cli.heat_map import Canvas, HeatMap, lines
from alibi_cli.errors import AlibiError

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160  # a pipe has no width of its own; rich would take 80 and fold
SILENT = os.environ.get("RANK", "0") != "0"


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    if not SILENT:
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _console(stderr: bool = False, quiet: bool = SILENT) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet)


def print_text(text: str) -> None:
    """Text on stdout, as it is: no markup, no wrapping."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """One line of text in which what cannot be seen is spelled out: names from files can hold line breaks and terminal commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str] = ()
) -> None:
    """A table on stdout. Columns named in `numeric` are never truncated or wrapped, whatever the width of the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for index, column in enumerate(columns):
        if column in numeric:
            width = max([len(column), *(len(row[index]) for row in rows)])
            table.add_column(column, justify="right", no_wrap=True, min_width=width)
        else:
            table.add_column(
                column, overflow="fold", min_width=min(10, max([len(column), *(len(row[index]) for row in rows)]))
            )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = _console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    console.print(table)


def print_heat_maps(maps: Sequence[HeatMap]) -> None:
    """Maps and a summary of each on stdout, in whatever the terminal can show; see `heat_map`."""
    console = _console()
    colours = console.color_system in ("256", "truecolor") and not console.no_color
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    for line in lines(maps, Canvas(console.width, colours, unicode)):
        console.print(line, soft_wrap=True)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line, on stdout."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print_text(f"{name:<{width}}  {printable(value)}")


def note(message: str) -> None:
    """A remark on stderr: what is being done, or what to do next."""
    _console(stderr=True).print(printable(message), style="dim", markup=False, highlight=False, soft_wrap=True)


def print_error(error: AlibiError, from_any: bool = False) -> None:
    """One or two lines on stderr. from_any: print it in whichever process it occurs, because the first one may not know of it."""
    from rich.text import Text

    console = _console(stderr=True, quiet=SILENT and not from_any)
    console.print(Text.assemble(("Error: ", "bold red"), printable(error.message)), soft_wrap=True)
    if error.hint:
        console.print(Text(printable(error.hint)), soft_wrap=True)


@contextmanager
def progress(unit: str = "") -> Iterator[Callable[[str, float, float], None]]:
    """A progress bar on stderr, nothing if stderr is no terminal; yields update(description, completed, total)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = _console(stderr=True)
    shown = not console.quiet and console.is_terminal and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") != "1"
    count = MofNCompleteColumn() if unit != "bytes" else TextColumn("{task.fields[amount]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("", total=None, amount="")

        def update(description: str, completed: float, total: float) -> None:
            amount = f"{format_bytes(int(completed))} of {format_bytes(int(total))}" if unit == "bytes" else ""
            bar.update(task, description=description, completed=completed, total=total or None, amount=amount)

        yield update


def format_bytes(n: int) -> str:
    """12,345,678 -> '12.3 MB' (decimal units)."""
    size, units = float(n), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
