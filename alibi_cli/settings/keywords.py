"""The settings of a verb as keyword arguments: in the signature and in the docstring of its function."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from alibi_cli.settings.declaration import Declared, Verb, declared
from alibi_cli.silence import silent_libraries

Function = TypeVar("Function", bound=Callable[..., Any])
PLACE = re.compile(r"^ *settings: see `\w+`.*?$", re.MULTILINE)


def takes_settings(cls: type[Verb]) -> Callable[[Function], Function]:
    """Decorator of a verb, a function of (…, **settings): names the settings of `cls` that it does not name itself.

    In the docstring they stand where it says "settings: see `…`". While the verb works, the libraries that it uses are silent.
    """

    def decorator(function: Function) -> Function:
        @wraps(function)
        def verb(*args: Any, **options: Any) -> Any:
            with silent_libraries():
                return function(*args, **options)

        signature = inspect.signature(function)
        given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        found = [each for each in declared(cls) if each.name not in {p.name for p in given} and not _hidden(each)]
        keywords = [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=accepted(each)
            )
            for each in found
        ]
        before = [p for p in given if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        own = [p for p in given if p.kind is inspect.Parameter.KEYWORD_ONLY]
        verb.__signature__ = signature.replace(parameters=[*before, *keywords, *own])  # type: ignore[attr-defined]
        lines = "\n".join(_lines(found))
        verb.__doc__ = PLACE.sub(lambda _: lines, function.__doc__ or "")
        return cast(Function, verb)

    return decorator


def _hidden(each: Declared) -> bool:
    """A record of the command line, which a library user has no use for."""
    return each.name == "command"


def _lines(found: Sequence[Declared]) -> Iterator[str]:
    for each in found:
        choices = f" One of {', '.join(map(repr, each.choices))}." if each.choices else ""
        text = f"{each.name}: {each.setting.help}{choices}"
        yield textwrap.fill(text, 120, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)


def accepted(each: Declared) -> Any:
    """The type of the values that `normal` turns into the setting's own. Whole numbers may be text on command lines
    and in presets; in Python a type checker is to find out who gives text."""
    kind = _accepted(each.kind)
    if each.setting.parse is not None:
        kind = kind | str
    return kind | None if each.optional else kind


def _accepted(kind: Any) -> Any:
    if kind is Path:
        return str | Path
    if get_origin(kind) is tuple:
        return Sequence[_accepted(get_args(kind)[0])]  # type: ignore[misc]
    return kind


def in_words(kind: Any) -> str:
    """A type as source code."""
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(in_words, get_args(kind)))
    if get_origin(kind) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(kind)))}]"
    if get_origin(kind) is not None:
        name = getattr(get_origin(kind), "__name__", str(get_origin(kind)))
        return f"{name}[{', '.join('...' if part is Ellipsis else in_words(part) for part in get_args(kind))}]"
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))
