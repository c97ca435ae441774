"""Wires the commands. Nothing here or in the command modules imports torch before a command needs it."""

import contextlib
import gc
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from alibi_cli.cli import bench, convert, evaluate, export, inspect, output, train, verify
from alibi_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, AlibiError, first_line


class _PlainHelp(TyperGroup):
    """The list of commands is plain text, which is there at once; the commands' own help is Rich's, with panels."""

    def format_help(self, context: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(context, formatter)


app = typer.Typer(
    name="alibi",
    cls=_PlainHelp,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="Replace a checkpoint's positional encoding with ALiBi, write it back, and measure perplexity at every length.",
    epilog="Start with: alibi eval --lengths 512,1024,2048",
)
for name, short, module in (
    ("convert", "Write a checkpoint with ALiBi in place of its positions.", convert),
    ("eval", "Measure perplexity, or accuracy on a task, at every length.", evaluate),
    ("verify", "Check that a converted checkpoint is still what was written.", verify),
    ("train", "Train a converted checkpoint further, so that it heals.", train),
    ("export", "Write a converted checkpoint as a GGUF file for llama.cpp.", export),
):
    app.command(name=name, short_help=short, epilog=module.EXAMPLES)(module.command)
app.add_typer(inspect.app, name="inspect")
app.add_typer(bench.app, name="bench")


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        output.print_text(f"alibi-cli {version('alibi-cli')}")
        raise typer.Exit()


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; turns errors into one or two lines and an exit code."""
    # While libraries load, Python would look again and again through what they have made, which stays.
    gc.set_threshold(10_000)
    interrupted = False

    def interrupt(signal_number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True  # libraries turn an interrupt while they are imported into errors of their own
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except AlibiError as error:
        _debug()
        _end(error, error.exit_code)
    except KeyboardInterrupt:
        _debug()
        _end(AlibiError("Interrupted."), EXIT_INTERRUPTED)
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer has caught the interrupt
            _end(AlibiError("Interrupted."), EXIT_INTERRUPTED)
        raise
    except Exception as error:
        _debug()
        if interrupted:
            _end(AlibiError("Interrupted."), EXIT_INTERRUPTED)
        what = f"{type(error).__name__}: {first_line(error)}"
        _end(AlibiError(what, hint="This is not expected; ALIBI_DEBUG=1 shows where it happened."), EXIT_FAILED, True)


def _end(error: AlibiError, code: int, from_any: bool = False) -> NoReturn:
    output.print_error(error, from_any)
    sys.exit(code)


def _debug() -> None:
    if os.environ.get("ALIBI_DEBUG") == "1":
        raise  # noqa: PLE0704 - called from the handlers above only
