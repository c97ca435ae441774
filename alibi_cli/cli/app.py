"""Wires the commands. A command's module is imported when the command is run, and torch when it needs it."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from alibi_cli.cli import interrupts, output, stdout
from alibi_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, AlibiError, UsageError, first_line
from alibi_cli.version import __version__

# What is typed: (module of alibi_cli.cli, which has `command` and EXAMPLES; one line for the list). None: a group.
COMMANDS: dict[str, tuple[str | None, str]] = {
    "convert": ("convert_command", "Write a checkpoint with ALiBi in place of its positions, or beside them."),
    "eval": ("eval_command", "Measure perplexity at every length."),
    "task": ("task_command", "Measure accuracy on a generated long-range task at every length."),
    "report": ("report_command", "Show results side by side: a page, a model card, tables."),
    "verify": ("verify_command", "Check that a converted checkpoint is still what was written."),
    "train": ("train_command", "Train a converted checkpoint further, so that it heals."),
    "export": ("export_command", "Write a converted checkpoint as a GGUF file for llama.cpp."),
    "env": ("env_command", "Print versions, devices, paths and settings, for a bug report."),
    "inspect": (None, "Look at slopes, biases, heads, conversion plans, policies and presets."),
    "inspect slopes": ("slopes_command", "Slope of every head, and how far it sees."),
    "inspect bias": ("bias_command", "A picture of the bias of every head."),
    "inspect heads": ("heads_command", "What each head of a model does, as heat maps."),
    "inspect plan": ("plan_command", "What `alibi convert` would do."),
    "inspect policies": ("policies_command", "Which families have which policies."),
    "inspect presets": ("presets_command", "The named settings for --preset."),
    "bench": (None, "Measure time and memory."),
    "bench attention": ("bench_command", "Time and memory of every attention backend."),
}


class _Commands(Mapping[str, Any]):
    """The commands of a group, each made when it is asked for."""

    def __init__(self, group: str) -> None:
        below = [words for words in COMMANDS if words.startswith(group) and " " not in words[len(group) :]]
        self.words = {words[len(group) :]: words for words in below}
        self.made: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, name: object) -> bool:
        return name in self.words

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = _made(name, self.words[name])
        return self.made[name]


class _Group(TyperGroup):
    """The list of commands is plain text, which is there at once; the commands' own help is Rich's, with panels."""

    def __init__(self, group: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands(group)

    def list_commands(self, context: Any) -> list[str]:
        return list(self.commands)

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if not args and not context.resilient_parsing:  # typer's own way prints Rich's help, or nothing
            output.print_text(context.get_help())
            context.exit(EXIT_USAGE)
        return super().parse_args(context, args)

    def format_help(self, context: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(context, formatter)

    def format_commands(self, context: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[words][1]) for name, words in self.commands.words.items()])


def _made(name: str, words: str) -> Any:
    """The command, or the group, that is called by `words`, of which `name` is the last."""
    file, short = COMMANDS[words]
    if file is None:
        return _Group(f"{words} ", name=name, help=short)
    module = import_module(f"alibi_cli.cli.{file}")
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name=name, short_help=short, epilog=module.EXAMPLES)(module.command)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="alibi",
    cls=_Group,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="Replace a checkpoint's positional encoding with ALiBi, write it back, and measure perplexity at every length.",
    epilog="Start with: alibi eval --lengths 512,1024,2048",
)


def _show_version(value: bool) -> None:
    if value:
        output.print_text(f"alibi-cli {__version__}")
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
    atexit.register(gc.freeze)  # nor does it when the process ends: that took most of a second
    interrupts.listen()
    try:
        _check_names()
        app()
        stdout.flush()
    except AlibiError as error:
        _debug()
        _end(error, error.exit_code)
    except KeyboardInterrupt:
        _debug()
        _end(*interrupts.error())
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer has caught the interrupt
            _end(*interrupts.error())
        if not end.code:
            _flushed()
        raise
    except Exception as error:
        _debug()
        if interrupts.received():
            _end(*interrupts.error())
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
        stdout.flush()
    except AlibiError as error:
        _end(error, error.exit_code)


def _end(error: AlibiError, code: int, from_any: bool = False) -> NoReturn:
    output.print_error(error, from_any)
    sys.exit(code)


def _debug() -> None:
    if os.environ.get("ALIBI_DEBUG") == "1":
        raise  # noqa: PLE0704 - called from the handlers above only
