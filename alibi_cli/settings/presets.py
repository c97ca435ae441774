"""Settings from what is given and from presets: named, commented YAML files. The demonstration checkpoints lie beside them."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Verb, declared, normal, parse_count

Settings = TypeVar("Settings", bound=Verb)

DEMONSTRATIONS = ("demo-gpt2", "demo-llama")
COMMANDS = {  # that a preset can be for: (module of alibi_cli.settings, class)
    "convert": ("conversion", "ConvertSettings"),
    "eval": ("measuring", "EvaluateSettings"),
    "train": ("healing", "TrainSettings"),
}


def close_match(name: str, names: Iterable[str]) -> str | None:
    """What was probably meant."""
    import difflib

    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def settings_class(command: str) -> type[Verb]:
    """The settings of a command that takes presets; their module is imported when they are asked for."""
    module, name = COMMANDS[command]
    found: type[Verb] = getattr(import_module(f"alibi_cli.settings.{module}"), name)
    return found


def settings_of(
    cls: type[Settings], given: Mapping[str, Any], preset: str | None = None, dry: bool = False
) -> Settings:
    """The settings of a verb: those that are given, the preset's in place of others, defaults for the rest. dry: of a dry run.

    Raises:
        UsageError: an unknown name, a value of another kind or out of range, settings that do not go together, a preset of another verb.
    """
    known = {each.name: each for each in declared(cls)}
    for name in given:
        if name not in known:
            close = close_match(name, known)
            raise UsageError(f"There is no setting {name!r}.", f"Did you mean `{close}`?" if close else None)
    values = {**_from_preset(cls, preset, given), **given}
    missing = [name for name, each in known.items() if each.required and name not in values]
    if missing:
        raise UsageError(f"`{missing[0]}` is needed.")
    for name in given:
        needed = known[name].setting.needs
        if needed is not None and values.get(needed, known[needed].default) in (None, ()):
            raise UsageError(f"`{name}` needs `{needed}`.")
        if dry and known[name].setting.written:
            what = f"{name}=False" if given[name] is False else name
            raise UsageError(f"`{what}` does nothing in a dry run, which writes nothing.")
    made = cls(**{name: normal(known[name], value) for name, value in values.items()})
    made.check()
    if not dry:
        made.check_output()
    return made


def _from_preset(cls: type[Verb], preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    if preset is None:
        return {}
    command, _, chosen = load_preset(preset)
    if not issubclass(settings_class(command), cls):
        raise UsageError(f"Preset {preset} is for `alibi {command}`.")
    part_of = {each.name: each.setting.part_of for each in declared(cls)}
    return {name: value for name, value in chosen.items() if name in part_of and part_of[name] not in given}


def presets_folder() -> Path:
    """Inside the package in an installed wheel, beside it in a clone."""
    package = Path(__file__).parent.parent
    return package / "presets" if (package / "presets").is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def preset_file(name: str) -> Path:
    """The file of a preset: one of ours by its name, or your own, which ends in .yaml.

    Raises:
        UsageError: there is none.
    """
    own = Path(name)
    if own.suffix in (".yaml", ".yml"):
        if not own.is_file():
            raise UsageError(f"There is no preset file {name}.")
        return own
    if name not in preset_names():
        close = close_match(name, preset_names())
        raise UsageError(
            f"There is no preset {name!r}; there are {', '.join(preset_names())}.",
            f"Did you mean {close}?" if close else None,
        )
    return presets_folder() / f"{name}.yaml"


def load_preset(name: str) -> tuple[str, str, dict[str, Any]]:
    """(command, description, settings) of a preset; only the settings that its file names.

    Raises:
        UsageError: no such preset, or a file that does not fit the settings of its command.
    """
    path = preset_file(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}.") from None
    return parse_preset(text, path.name)


def parse_preset(text: str, where: str) -> tuple[str, str, dict[str, Any]]:
    """As `load_preset`, from the text of a file."""
    import yaml
    from pydantic import BaseModel, ValidationError

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or set(content) != {"command", "description", "settings"}:
        raise UsageError(f"{where} must have the keys command, description and settings, and no other.")
    command = content["command"]
    if not isinstance(command, str) or command not in COMMANDS:
        raise UsageError(f"{where}: command is convert, eval or train, not {command!r}.")
    schema: type[BaseModel] = preset_schema(command)
    try:
        settings = schema.model_validate(content["settings"]).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        close = close_match(key, schema.model_fields)
        raise UsageError(
            f"{where}: {key}: {first['msg']}.",
            f"Did you mean {close}?" if close and close != key else None,
        ) from None
    return command, str(content["description"]), settings


def preset_schema(command: str) -> Any:
    """The pydantic model of what a preset of a command may hold."""
    from pydantic import BeforeValidator, ConfigDict, Field, create_model

    count = Annotated[int, BeforeValidator(lambda value: parse_count(value) if isinstance(value, str) else value)]
    found: dict[str, Any] = {}
    for each in declared(settings_class(command)):
        if each.setting.preset:
            kind: Any = str if each.setting.parse is not None else count if each.kind is int else each.kind
            bounds: dict[str, Any] = {"ge": each.setting.minimum, "le": each.setting.maximum, "gt": each.setting.above}
            if each.kind not in (int, float):
                bounds.clear()
            found[each.name] = (kind | None if each.optional else kind, Field(None, **bounds))
    return create_model(command, __config__=ConfigDict(extra="forbid"), **found)
