"""JSON from files of others: a key that is there twice is an error, because readers differ in which one they take."""

import json
from pathlib import Path
from typing import Any

from alibi_cli.errors import AlibiError, UsageError, explained


class DuplicateKey(ValueError):
    """key: the one that an object has more than once."""

    def __init__(self, key: str):
        super().__init__(f"the key {key!r} is there twice")
        self.key = key


def loads(text: str) -> Any:
    """As json.loads.

    Raises:
        DuplicateKey: see there.
        ValueError: not JSON, nested too deeply, or with text that cannot be written again (half of a surrogate pair).
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKey(key)
        key.encode()  # UnicodeEncodeError is a ValueError
        found[key] = value
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that must exist and hold one."""
    with explained(f"Cannot read {path}"):
        is_file = path.is_file()  # a device or a pipe could be read for ever
    if not is_file:
        raise UsageError(
            f"{path.parent} has no {path.name}.",
            hint="A checkpoint folder holds config.json and weights.",
        )
    try:
        with explained(f"Cannot read {path}"):
            content = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AlibiError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise AlibiError(f"{path} does not hold a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
