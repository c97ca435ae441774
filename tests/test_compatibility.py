"""docs/compatibility.md says what the tests under tests/ecosystem recorded, of the versions that they are pinned to."""

import json
import re

import pytest

from tests.conftest import REPOSITORY

ROWS = json.loads((REPOSITORY / "benchmarks" / "ecosystem.json").read_text())
TESTS = REPOSITORY / "tests" / "ecosystem"


def pins(text: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([\w.-]+)==([^;\s]+)", text, re.MULTILINE)
    return {(name.lower().replace("_", "-"), version) for name, version in found}


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row['package']}-{row['version']}-{index}" for index, row in enumerate(ROWS)]
)
def test_a_row_has_its_test_its_version_and_its_control(row: dict) -> None:
    file, _, name = row["test"].partition("::")
    assert f"def {name}(" in (TESTS / file).read_text()
    lists = [REPOSITORY / "constraints.txt", *TESTS.glob("*.txt")]
    pinned = set().union(*(pins(each.read_text()) for each in lists))
    assert (row["package"].lower().replace("_", "-"), row["version"].partition("+")[0]) in pinned
    assert row["difference"] < row["control"] / 10


def test_every_test_file_has_a_row_and_the_table_is_short() -> None:
    without = {"test_originals.py"}  # what fails with the originals too
    recorded = {row["test"].partition("::")[0] for row in ROWS}
    assert {file.name for file in TESTS.glob("test_*.py")} - without <= recorded
    assert len(ROWS) <= 30
