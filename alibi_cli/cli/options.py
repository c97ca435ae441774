"""Typer's options, made of the settings of a verb."""

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from alibi_cli import settings as settings_package
from alibi_cli.errors import SETTING, UsageError
from alibi_cli.plots.figures import check_figure
from alibi_cli.settings.declaration import Declared, Verb, bounds_in_words, declared
from alibi_cli.settings.presets import settings_of

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Settings from presets/NAME.yaml, or your own YAML file; options given here win.",
        show_default=False,
    ),
]

Format = Annotated[
    Literal["table", "markdown", "csv", "latex"] | None,
    typer.Option(
        "--format",
        help="Print tables as Markdown or for LaTeX (booktabs, a column for each length), or rows as CSV with full names and figures. "
        "Default: table.",
        show_default=False,
    ),
]


def takes(cls: type[Verb], light: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a function of (settings, …): a command with an option for each setting of `cls`, and one for each other parameter.

    What is wrong is refused before anything heavy is loaded. Options that were left at their default are not given, so that a preset can
    have its say. light: the command loads no library that has to be silenced.
    """

    def decorator(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "settings"]
        found = [each for each in declared(cls) if each.setting.option]
        found.sort(
            key=lambda each: (
                not each.setting.argument,
                not (each.setting.argument and each.required),
                each.name != "output",
            )
        )
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
        parameters += [
            inspect.Parameter(e.name, keyword, default=_default(e), annotation=_annotation(e)) for e in found
        ]
        parameters += [p.replace(kind=keyword, annotation=hints[p.name]) for p in own if p.name != "preset"]
        last = [p.replace(kind=keyword, annotation=hints[p.name]) for p in own if p.name == "preset"]

        def command(context: typer.Context, **values: Any) -> None:
            given = {each.name: values.pop(each.name) for each in found}
            given = {name: value for name, value in given.items() if was_given(context, name)}
            for hidden in declared(cls):
                if hidden.name == "command":
                    given["command"] = command_line()
            settings = settings_of(cls, given, values.pop("preset", None), dry=values.get("dry_run", False))
            _check_own(settings, values)
            if not light:
                from alibi_cli.silence import silence_libraries

                silence_libraries()
            function(settings, **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature([*parameters, *last])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorator


def _check_own(settings: Verb, values: dict[str, Any]) -> None:
    """Options that several commands have, beside their settings.

    Raises:
        UsageError: one that means nothing here, or a picture that could not be written after the work.
    """
    picture = values.get("plot")
    if values.get("form") is not None and values.get("json"):
        raise UsageError("Give --format or --json, not both.")
    if values.get("verbose") and getattr(settings, "attention", None) != "auto":
        raise UsageError("--verbose says what --attention auto chooses, and that is not asked for.")
    if picture is None:
        return
    if values.get("dry_run"):
        raise UsageError("--plot does nothing in a dry run, which writes nothing.")
    check_figure(picture)
    if picture == getattr(settings, "output", None):
        raise UsageError("--plot names the same file as --output.")


def was_given(context: typer.Context, name: str) -> bool:
    """True unless the option was left at its default."""
    return getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"


def command_line() -> str:
    """What was typed, for the records."""
    import shlex
    import sys

    return shlex.join(["alibi", *sys.argv[1:]])


def _default(each: Declared) -> Any:
    if each.required:
        return inspect.Parameter.empty
    if get_origin(each.kind) is tuple:
        if each.setting.parse is None:
            return None  # a repeatable option
        return ",".join(map(str, each.default)) if each.default else None
    return str(each.default) if type(each.default) is int else each.default


def _annotation(each: Declared) -> Any:
    setting, default = each.setting, _default(each)
    kind: Any = each.kind
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        one: Any = str if inner is Any else inner
        kind = str if setting.parse is not None else list[one]
    elif kind in (Any, int):  # a number may be 32k
        kind = str
    if default is None:
        kind = kind | None
    bounds = bounds_in_words(setting)
    extra: dict[str, Any] = {
        "help": setting.help + (f" {bounds.capitalize()}." if bounds else ""),
        "metavar": setting.metavar or ("N" if each.kind is int else None),
        "rich_help_panel": setting.panel,
        "show_default": default not in (None, inspect.Parameter.empty),
    }
    if setting.argument:
        return Annotated[kind, typer.Argument(**extra)]
    flags = setting.flags or ((option_of(each.name),) if kind is bool else ())
    return Annotated[kind, typer.Option(*flags, **extra)]


def option_of(name: str) -> str:
    """max_bias -> --max-bias"""
    return f"--{name.replace('_', '-')}"


def in_options(text: str) -> str:
    """A message of the library, its settings in the words of the command line: `max_bias` -> --max-bias, `verify=False` -> --no-verify."""

    def option(found: Any) -> str:
        name, value = found[1], found[2]
        if name not in _names():
            return str(found[0])
        if value == "False":
            return f"--no-{name.replace('_', '-')}"
        return option_of(name) if value in (None, "True") else f"{option_of(name)} {value}"

    return SETTING.sub(option, text)


def _names() -> set[str]:
    for module in pkgutil.iter_modules(
        settings_package.__path__
    ):  # a message may name a setting of a verb that has not been loaded
        import_module(f"{settings_package.__name__}.{module.name}")
    classes, names = [Verb], set()
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        names |= {each.name for each in declared(cls)}
    return names
