"""Everything that is printed. Results go to stdout; progress, hints and errors to stderr.

Rich is imported when it is first needed. Of several processes that were launched together, the first one prints.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from alibi_cli.cli import stdout
from alibi_cli.cli.options import in_options
from alibi_cli.errors import AlibiError
from alibi_cli.launcher import place

if TYPE_CHECKING:
    from rich.console import Console

    from alibi_cli.cli.heat_map import HeatMap
    from alibi_cli.evaluation.tables import Table
    from alibi_cli.progress import Progress as Step
    from alibi_cli.progress import Watch

PIPED_WIDTH = 160  # a pipe has no width of its own; rich would take 80 and fold
GAP = 2  # between columns
LONG_WORD = 12  # characters: a longer one may be cut where a column of words is narrow
LOG_EVERY = 60.0  # seconds between lines where there is no terminal
SILENT = place().index > 0


def print_json(content: Any) -> None:
    """One JSON object on stdout, of a report or of plain data."""
    if not SILENT:
        if is_dataclass(content) and not isinstance(content, type):
            content = asdict(content)
        elif hasattr(content, "model_dump"):
            content = content.model_dump(mode="json")
        with stdout.written():
            sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _console(stderr: bool = False, quiet: bool = SILENT) -> "Console":
    from rich.console import Console

    class Plain(Console):
        """Where rich would end the process because nobody reads what it prints, `stdout.written` decides; without stderr work goes on."""

        def on_broken_pipe(self) -> None:
            if not self.stderr:
                raise  # noqa: PLE0704 - the BrokenPipeError, in whose handler this is called
            sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends

    return Plain(stderr=stderr, quiet=quiet, emoji=False)  # names hold colons


def print_text(text: str) -> None:
    """Text on stdout, as it is."""
    if not SILENT:
        with stdout.written():
            sys.stdout.write(f"{text}\n")


def printable(text: str) -> str:
    """One line of text in which what cannot be seen is spelled out: names from files can hold line breaks and terminal commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str] = ()
) -> None:
    """A table on stdout. Columns named in `numeric` are never truncated or wrapped, whatever the width of the terminal; lines are longer
    than it where even they have no room."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    console = _console()
    for column, width in zip(columns, _widths(columns, rows, numeric, console), strict=True):
        figures = column in numeric
        table.add_column(column, justify="right" if figures else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with stdout.written():
        if title is not None:  # not the table's own, which would be folded to its width
            lines = "\n".join(map(printable, title.splitlines()))
            console.print(Text(lines, style="bold"), soft_wrap=not console.is_terminal)
        console.print(table)


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str], console: "Console"
) -> list[int]:
    """Of the columns: figures whole, then words from the left on as far as there is room; with too little, the console is made wider."""
    whole = [max(map(len, [column, *(printable(row[index]) for row in rows)])) for index, column in enumerate(columns)]
    words = [
        max(len(word) for row in [columns, *rows] for word in [*printable(row[i]).split(), ""])
        for i in range(len(columns))
    ]
    least_of = zip(columns, whole, words, strict=True)
    widths = [n if column in numeric else min(n, longest, LONG_WORD) for column, n, longest in least_of]
    least = sum(widths) + GAP * (len(columns) - 1)
    console.width = max(console.width, least if console.is_terminal else PIPED_WIDTH)
    room = console.width - least
    for index, needed in enumerate(whole):
        more = min(needed - widths[index], room)
        widths[index], room = widths[index] + more, room - more
    return widths


def print_cells(table: "Table") -> None:
    """A table of the library on stdout."""
    print_table(table.title, table.columns, table.rows, table.numeric)


def print_heat_maps(maps: "Sequence[HeatMap]") -> None:
    """Maps and a summary of each on stdout, in whatever the terminal can show; see `heat_map`."""
    from alibi_cli.cli.heat_map import Canvas, lines

    console = _console()
    colours = console.color_system in ("256", "truecolor") and not console.no_color
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    with stdout.written():
        for line in lines(maps, Canvas(console.width, colours, unicode)):
            console.print(line, soft_wrap=True)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line, on stdout."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print_text(f"{name:<{width}}  {printable(value)}")


def note(message: str) -> None:
    """A remark on stderr: what is being done, or what to do next."""
    _console(stderr=True).print(
        printable(in_options(message)), style="dim", markup=False, highlight=False, soft_wrap=True
    )


def print_error(error: AlibiError, from_any: bool = False) -> None:
    """One or two lines on stderr. from_any: print it in whichever process it occurs, because the first one may not know of it."""
    from rich.text import Text

    console = _console(stderr=True, quiet=SILENT and not from_any)
    console.print(Text.assemble(("Error: ", "bold red"), printable(in_options(error.message))), soft_wrap=True)
    if error.hint:
        console.print(Text(printable(in_options(error.hint))), soft_wrap=True)


@contextmanager
def progress(remarks: bool = True) -> Iterator["Watch"]:
    """Shows what a verb reports: a progress bar on stderr, or a line a minute where stderr is no terminal. remarks: notes too.

    Nothing but the verb's result is to go to stdout: what is printed meanwhile goes to stderr.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = _console(stderr=True)
    wanted = not console.quiet and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") != "1"
    shown, told = wanted and console.is_terminal, time.monotonic()
    what, amount = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[amount]"))
    columns = (what, BarColumn(), TaskProgressColumn(), amount)
    display = Progress(*columns, console=console, disable=not shown, transient=True)
    with stdout.reserved(), display:
        task = display.add_task("", total=None, amount="")

        def watch(step: "Step") -> None:
            nonlocal told
            if step.note:
                if remarks:
                    note(step.what)
                return
            amount = _amount(step)
            display.update(task, description=step.what, completed=step.done, total=step.of or None, amount=amount)
            if wanted and not shown and time.monotonic() - told >= LOG_EVERY:
                told = time.monotonic()
                note(f"{step.what}: {amount}" if amount else step.what)

        yield watch


def _amount(step: "Step") -> str:
    """How much of how much, how fast, how long yet."""
    if not step.of:
        return ""
    if step.unit == "bytes":
        amount = f"{format_bytes(int(step.done))} of {format_bytes(int(step.of))}"
    else:
        amount = f"{step.done:,.0f}/{step.of:,.0f}{f' {step.unit}' if step.unit else ''}"
    return ", ".join([amount, *step.pace])


def format_bytes(n: int) -> str:
    """12,345,678 -> '12.3 MB' (decimal units)."""
    size, units = float(n), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
