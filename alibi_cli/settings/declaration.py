"""What a setting is, and how values become settings, wherever they come from: Python, the command line, or a preset."""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from alibi_cli.errors import UsageError

UNITS = {"k": 1 << 10, "K": 1 << 10, "M": 1 << 20}


def parse_count(text: str) -> int:
    """'8192', '8k' (of 1,024), '1M' (of 1,048,576) or '1e6'.

    Raises:
        ValueError: it is none of these; its message says so, without a subject.
    """
    digits, unit = (text.strip()[:-1], UNITS[text.strip()[-1]]) if text.strip()[-1:] in UNITS else (text.strip(), 1)
    try:
        number = float(digits) if "e" in digits.lower() and unit == 1 else int(digits)
        if number == int(number):
            return int(number) * unit
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"is a whole number such as 8192, 8k or 1e6; it is {text!r}")


@dataclass(frozen=True)
class Setting:
    """What there is to say about a setting besides its name, type and default; the annotation of a field of a settings class.

    help: stands alone. argument: its place on the command line says which it is. option: False for what the command line cannot give.
    flags: its options, if not `name`. metavar, panel: in `help`. minimum, maximum: bounds, included; above: bound, excluded.
    parse: makes a value of the text that a command line or a preset holds. preset: a preset may hold it. part_of: a setting that gives it
    its meaning; where that one is given, a preset's value for this one is of another case. needs: a setting without which it means nothing.
    written: it concerns what is written or logged; a dry run, which does neither, refuses it.
    """

    help: str
    argument: bool = False
    option: bool = True
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    parse: Callable[[str], Any] | None = None
    preset: bool = True
    part_of: str | None = None
    needs: str | None = None
    written: bool = False


@dataclass(frozen=True)
class Declared:
    """A field of a settings class. kind: its type without None; optional: it may be None."""

    name: str
    kind: Any
    optional: bool
    default: Any
    setting: Setting

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def choices(self) -> tuple[Any, ...] | None:
        return get_args(self.kind) if get_origin(self.kind) is Literal else None


@dataclass(frozen=True)
class Verb:
    """Base of the settings of a verb."""

    def check(self) -> None:
        """
        Raises:
            UsageError: settings that do not go together, whatever the model, or that name what is not there.
        """

    def check_output(self) -> None:
        """Not called for a dry run.

        Raises:
            UsageError: what is to be written is in the way of something.
        """


def declared(cls: type[Verb]) -> tuple[Declared, ...]:
    """The settings of a verb in order."""
    kind: Any = cls
    return _declared(kind)


@cache
def _declared(cls: Any) -> tuple[Declared, ...]:
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in fields(cls):
        annotation, setting = get_args(hints[field.name])[:2]
        parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        kinds = [part for part in parts if part is not NoneType]
        kind = kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]  # noqa: UP007 - made from a list
        found.append(Declared(field.name, kind, NoneType in parts, field.default, setting))
    return tuple(found)


def normal(declared: Declared, value: Any) -> Any:
    """A value as the settings class has it: text is parsed, lists become tuples, names of files paths.

    Raises:
        UsageError: it is of another kind, or out of range.
    """
    name, setting, kind = declared.name, declared.setting, declared.kind
    if value is None:
        if not declared.optional:
            raise UsageError(f"`{name}` must not be None.")
        return None
    if isinstance(value, str) and setting.parse is not None:
        value = setting.parse(value)
    elif isinstance(value, str) and kind is int:
        try:
            value = parse_count(value)
        except ValueError as error:
            raise UsageError(f"`{name}` {error}.") from None
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        parts: list[Any] = [value] if isinstance(value, (str, Path)) else list(value)
        value = tuple(
            Path(part) if inner is Path else tuple(part) if get_origin(inner) is tuple else part for part in parts
        )
    elif kind is Path:
        value = Path(value)
    elif kind is str and isinstance(value, Path):
        value = str(value)
    elif kind is float and type(value) is int:
        value = float(value)
    if declared.choices is not None and value not in declared.choices:
        raise UsageError(f"`{name}` is {', '.join(declared.choices)}; it is {value!r}.")
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise UsageError(f"`{name}` is of type {kind.__name__}; it is {value!r}.")
    if kind in (int, float):
        _check_range(name, value, setting)
    return value


def _check_range(name: str, value: float, setting: Setting) -> None:
    low, high, above = setting.minimum, setting.maximum, setting.above
    inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if not inside or (type(value) is float and not math.isfinite(value)):
        raise UsageError(f"`{name}` must be {bounds_in_words(setting) or 'finite'}; it is {value:,}.")


def bounds_in_words(setting: Setting) -> str:
    """'at least 2', 'between 0 and 1'; '' if there is no bound."""
    low, high = (None if bound is None else f"{bound:,}" for bound in (setting.minimum, setting.maximum))
    if setting.above is not None:
        return f"above {setting.above:,}" + ("" if high is None else f" and at most {high}")
    if low is not None:
        return f"at least {low}" if high is None else f"between {low} and {high}"
    return "" if high is None else f"at most {high}"
