"""Wires the commands. Nothing here or in the command modules imports torch before a command needs it."""

import contextlib
import gc
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from alibi_cli.cli import (
    bench_command,
    convert_command,
    eval_command,
    export_command,
    inspect_command,
    output,
    task_command,
    train_command,
    verify_command,
)
from alibi_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, AlibiError, UsageError, first_line


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
    ("convert", "Write a checkpoint with ALiBi in place of its positions, or beside them.", convert_command),
    ("eval", "Measure perplexity at every length.", eval_command),
    ("task", "Measure accuracy on a generated long-range task at every length.", task_command),
    ("verify", "Check that a converted checkpoint is still what was written.", verify_command),
    ("train", "Train a converted checkpoint further, so that it heals.", train_command),
    ("export", "Write a converted checkpoint as a GGUF file for llama.cpp.", export_command),
):
    app.command(name=name, short_help=short, epilog=module.EXAMPLES)(module.command)
app.add_typer(inspect_command.app, name="inspect")
app.add_typer(bench_command.app, name="bench")


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
    interrupted = 0

    def interrupt(signal_number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = signal_number  # libraries turn an interrupt while they are imported into errors of their own
        raise KeyboardInterrupt

    def end_of_interrupt() -> NoReturn:
        terminated = interrupted == signal.SIGTERM  # by a batch system, or `timeout`
        _end(
            AlibiError("Terminated." if terminated else "Interrupted."),
            128 + signal.SIGTERM if terminated else EXIT_INTERRUPTED,
        )

    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
    try:
        _check_names()
        app()
        output.flush()
    except AlibiError as error:
        _debug()
        _end(error, error.exit_code)
    except KeyboardInterrupt:
        _debug()
        end_of_interrupt()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer has caught the interrupt
            end_of_interrupt()
        if not end.code:
            _flushed()
        raise
    except Exception as error:
        _debug()
        if interrupted:
            end_of_interrupt()
        what = f"{type(error).__name__}: {first_line(error)}"
        _end(AlibiError(what, hint="This is not expected; ALIBI_DEBUG=1 shows where it happened."), EXIT_FAILED, True)


def _check_names() -> None:
    """
    Raises:
        UsageError: an argument that this Python cannot write down; libraries would fail on it somewhere, each in its own way.
    """
    for word in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UsageError(
                f"{word!a} cannot be written in the encoding of this environment, {sys.getfilesystemencoding()}.",
                "Set LC_ALL=C.UTF-8, or PYTHONUTF8=1.",
            )


def _flushed() -> None:
    """What was printed has arrived, or the exit code says that it has not."""
    try:
        output.flush()
    except AlibiError as error:
        _end(error, error.exit_code)


def _end(error: AlibiError, code: int, from_any: bool = False) -> NoReturn:
    output.print_error(error, from_any)
    sys.exit(code)


def _debug() -> None:
    if os.environ.get("ALIBI_DEBUG") == "1":
        raise  # noqa: PLE0704 - called from the handlers above only
