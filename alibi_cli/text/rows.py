"""Documents from datasets: their rows, one after the other."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alibi_cli.errors import UsageError, first_line
from alibi_cli.settings.on_disk import ROWS, TEXTS
from alibi_cli.text.text_files import bounded


def from_dataset(spec: str, column: str, default_split: str) -> Iterable[tuple[str, str]]:
    path, config, split, *rest = [*_parts(spec), "", ""]
    if any(rest):
        raise UsageError(f"{spec!r} is not path, path:config or path:config:split.")
    try:
        for index, row in enumerate(_rows(path, config, split, default_split)):
            if column not in row:
                raise UsageError(
                    f"{spec} has no column {column!r}; its columns: {', '.join(row)}.",
                    hint="Name it with `text_column`.",
                )
            if row[column] is None:
                continue
            if not isinstance(row[column], str):
                raise UsageError(
                    f"Row {index} of {spec}: its {column!r} is of type {type(row[column]).__name__}, not text.",
                    hint="Name another column with `text_column`.",
                )
            if row[column].strip():
                yield f"{path}#{index}", bounded(f"{path}#{index}", row[column])
    except StopIteration:  # of a file without rows, by `datasets`
        raise UsageError(f"Dataset {spec} holds no rows.") from None
    except (ValueError, OSError, RuntimeError) as error:  # rows are read, and parsed, as they are asked for
        raise UsageError(f"Dataset {spec} cannot be read: {first_line(error)}.") from None


def _parts(spec: str) -> list[str]:
    """[path, config, split], of which the path may hold colons if there is such a file or folder."""
    parts = spec.split(":")
    for n in range(len(parts), 1, -1):
        path = ":".join(parts[:n])
        try:
            if Path(path).expanduser().exists():
                return [path, *parts[n:]]
        except OSError:  # too long for a file
            continue
    return parts


def _rows(path: str, config: str, split: str, default_split: str) -> Iterable[dict[str, Any]]:
    """The rows of a file, of a folder that `save_to_disk` wrote, or of anything that `datasets.load_dataset` reads."""
    from datasets import Dataset, load_dataset, load_from_disk
    from datasets.exceptions import DatasetNotFoundError

    place = Path(path).expanduser()
    kind = place.suffix.lower()
    if place.is_file():
        if kind not in ROWS:
            raise UsageError(f"{path} is no dataset: files end in {', '.join(ROWS)}.", "Text goes to `text`.")
        if config or split:
            raise UsageError(f"{path} is one file, which has no configurations and splits.")
        return load_dataset(ROWS[kind], data_files=str(place), split="train", streaming=True)
    if not place.exists() and (kind in (*ROWS, *TEXTS) or path.startswith((".", "/", "~"))):
        raise UsageError(f"There is no file {path}.")  # and the Hub need not be asked
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        try:
            found: Any = load_from_disk(str(place))
        except (TypeError, AttributeError, LookupError) as error:  # of files of JSON that hold something else
            raise UsageError(f"Dataset {path} cannot be read: {first_line(error)}.") from None
        if isinstance(found, Dataset):
            if config or split:
                raise UsageError(f"{path} is one split, which has no configurations and splits.")
            return found
    else:
        try:
            found = load_dataset(path, config or None, streaming=True)
        except DatasetNotFoundError:
            raise UsageError(f"There is no dataset {path}.") from None
    wanted = split or default_split
    if wanted not in found:
        raise UsageError(
            f"{path} has no split {wanted!r}; it has {', '.join(found)}.",
            f"Name one, as in {path}:{config}:{next(iter(found))}.",
        )
    return found[wanted]
