"""Files that are written from the code: brought up to date, or with --check only compared."""

import sys
from pathlib import Path


def bring_up_to_date(path: Path, text: str) -> None:
    """
    Raises:
        SystemExit: with --check, the file does not hold `text`.
    """
    if "--check" not in sys.argv:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path.name} is stale: run `make docs`.")
