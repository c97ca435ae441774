"""Writes the table of docs/compatibility.md from benchmarks/ecosystem.json, the figures that the tests under tests/ecosystem record.

python scripts/write_compatibility.py [--check]
"""

import json
from pathlib import Path
from typing import Any

from generated import bring_up_to_date

REPOSITORY = Path(__file__).parent.parent
PAGE, RECORD = REPOSITORY / "docs" / "compatibility.md", REPOSITORY / "benchmarks" / "ecosystem.json"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"
COLUMNS = ("package", "version", "what was compared", "difference", "control")


def table(rows: list[dict[str, Any]]) -> str:
    cells = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, sorted(rows, key=_place))]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["package"].lower(), [int(part) for part in row["version"].split(".") if part.isdigit()], row["compared"]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figures = (_figure(row["difference"]), _figure(row["control"]))
    return (row["package"].replace("_", "-"), row["version"].partition("+")[0], row["compared"], *figures)


def _figure(value: float) -> str:
    return f"{value:g}" if value == int(value) else f"{value:.1e}"


def render() -> str:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table(json.loads(RECORD.read_text()))}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    bring_up_to_date(PAGE, render())
