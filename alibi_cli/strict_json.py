"""JSON from files of others: a key that is there twice is an error, because readers differ in which one they take."""

import json
from typing import Any


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
