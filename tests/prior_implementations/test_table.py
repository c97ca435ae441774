"""docs/prior-implementations.md says the truth: every row is there once, and every test that it names exists."""

import re

import pytest

from tests.conftest import REPOSITORY

ROWS = {"C": 38, "S": 15, "Z": 9, "L": 9, "M": 15, "T": 10, "X": 8}
LINE = re.compile(r"^\| ([CSZLMTX]\d+) \| (.+) \| (.+) \|$", re.MULTILINE)


def table() -> list[tuple[str, str, str]]:
    return LINE.findall((REPOSITORY / "docs" / "prior-implementations.md").read_text())


def test_every_row_is_there_once() -> None:
    assert sorted(row for row, _, _ in table()) == sorted(
        f"{k}{n}" for k, last in ROWS.items() for n in range(1, last + 1)
    )


@pytest.mark.parametrize(("row", "evidence"), [(row, evidence) for row, _, evidence in table()])
def test_every_row_has_a_test_that_exists_or_a_reason(row: str, evidence: str) -> None:
    named = re.findall(r"`((?:[\w/]+/)?test_\w+\.py)::(test_\w+)`", evidence)
    assert named or evidence.startswith("Does not apply: "), row
    for file, test in named:
        assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(), (row, test)
