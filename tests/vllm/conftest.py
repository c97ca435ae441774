"""What the tests measure, for the tables of docs/vllm.md: kept in the file that ALIBI_RECORD names, if it names one."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Record = Callable[..., None]


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """record(part, **figures): the figures of one case."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    yield lambda part, **figures: found[part].append(figures)
    if name := os.environ.get("ALIBI_RECORD"):
        file = Path(name)
        before = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(before | found, indent=1) + "\n")
