"""What the tests measure, for the tables of docs/vllm.md: kept in the file that ALIBI_RECORD names, if it names one."""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Record = Callable[..., None]


@pytest.fixture(scope="session")
def record() -> Record:
    """record(part, **figures): the figures of one case. The cases of a part replace those of an earlier session."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    file = Path(os.environ["ALIBI_RECORD"]) if "ALIBI_RECORD" in os.environ else None

    def keep(part: str, **figures: Any) -> None:
        found[part].append(figures)
        if file is not None:
            before = json.loads(file.read_text()) if file.is_file() else {}
            file.write_text(json.dumps(before | found, indent=1) + "\n")

    return keep
