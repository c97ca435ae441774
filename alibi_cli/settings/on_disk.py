"""What settings name on this machine, looked at before a library is loaded: a mistake in a name is answered at once."""

import json
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError, explained
from alibi_cli.files.strict_json import read_json
from alibi_cli.names import CONVERTED
from alibi_cli.settings.presets import DEMONSTRATIONS, presets_folder

PLUGINS = "alibi.plugins"  # the entry-point group of installed ones
TEXTS = (".txt", ".md")  # what is read of a folder
# Files of rows, and who reads them.
ROWS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def local_folder(model: str) -> Path | None:
    """The folder on this machine that holds a model; None for what can only be the name of a Hub repository.

    Raises:
        UsageError: it is a file, or names a folder that is not there.
    """
    path = Path(model).expanduser()
    with explained(f"Cannot read {model}"):
        exists, is_folder = path.exists(), path.is_dir()
    if is_folder:
        return path
    if model in DEMONSTRATIONS and not exists:
        return presets_folder() / model
    if exists:
        raise UsageError(f"{model} is a file; a checkpoint is a folder with a config.json.")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"There is no folder {model}.")
    return None


def check_models(models: Iterable[Any], revision: str | None = None) -> None:
    """models: names, GGUF files, models in memory.

    Raises:
        UsageError: one that is not there, or a revision of folders, which have none.
    """
    names = [str(model) for model in models if isinstance(model, (str, Path))]
    files = [name for name in names if name.endswith(".gguf")]
    for name in files:
        if not Path(name).expanduser().is_file():
            raise UsageError(f"There is no file {name}.")
    folders = {name: local_folder(name) for name in names if name not in files}
    if revision is not None and not any(folder is None for folder in folders.values()):
        what = (
            f"{names[0]} is a local {'file' if names[0] in files else 'folder'}" if names else "The model is in memory"
        )
        raise UsageError(f"{what}; `revision` chooses one of a Hub repository.")


def check_converted(model: str) -> None:
    """
    Raises:
        UsageError: a folder that holds another checkpoint.
    """
    folder = local_folder(model)
    if folder is not None and not is_converted(read_json(folder / "config.json")):
        raise not_converted(model)


def is_converted(config: dict[str, Any]) -> bool:
    """config: what config.json holds."""
    return str(config.get("model_type")).startswith(CONVERTED)


def not_converted(model: str) -> UsageError:
    return UsageError(f"{model} is no converted checkpoint.", f"Convert it first: alibi convert {model}")


def check_plugins(files: Iterable[Path]) -> None:
    """
    Raises:
        UsageError: one is not there.
    """
    for path in files:
        if not path.is_file():
            raise UsageError(f"`plugin`: {path} cannot be loaded: there is no such file.")


def plugins_installed() -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group=PLUGINS))


def expanded(path: Path) -> list[Path]:
    """A folder's .txt and .md files, and what a pattern matches, in alphabetical order; any other path as it is.

    Raises:
        UsageError: a folder or a pattern without files.
    """
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix in TEXTS and each.is_file())
    elif not path.exists() and any(sign in str(path) for sign in "*?["):
        found = sorted(Path(each) for each in glob(str(path), recursive=True) if Path(each).is_file())  # noqa: PTH207 - absolute patterns
    else:
        return [path]
    if not found:
        kinds = f" ({', '.join(TEXTS)})" if path.is_dir() else ""
        raise UsageError(f"{path} holds no text files{kinds}.")
    return found


def check_texts(paths: Sequence[Path]) -> None:
    """
    Raises:
        UsageError: one that is not there, or holds rows.
    """
    for path in (file for each in paths for file in expanded(each)):
        if path.suffix.lower() in ROWS:
            raise UsageError(f"{path} holds rows, not text.", "Give it as `dataset`.")
        if str(path) != "-" and not path.exists():
            raise UsageError(f"Cannot read {path}: No such file or directory.")


def check_json(setting: str, path: Path) -> None:
    """
    Raises:
        UsageError: a file that is not there, or does not hold JSON.
    """
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"`{setting}`: cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"`{setting}`: {path} is not JSON: {error}.") from None


def check_writable(setting: str, path: Path) -> None:
    """
    Raises:
        UsageError: a file that could not be written after the work.
    """
    if not path.parent.is_dir() or path.is_dir():
        reason = "it is a folder" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"`{setting}`: {path} cannot be written: {reason}.")


def check_folder(output: Path, model: str, force: bool) -> None:
    """Of a checkpoint that is made of `model`; see `check_output`.

    Raises:
        UsageError: a folder that may not be written to.
    """
    from alibi_cli.files.atomic import check_output  # which loads safetensors

    check_output(output, local_folder(model), force)
