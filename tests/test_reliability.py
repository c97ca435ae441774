"""docs/reliability.md names tests that exist."""

import re

from tests.conftest import REPOSITORY


def test_every_row_names_tests_that_exist() -> None:
    text = (REPOSITORY / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(rows) > 50 and "@" not in text
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5 and all(cells), row
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", cells[3])
        assert named, row
        for file, test in named:
            assert re.search(rf"^def {test}\(", (REPOSITORY / "tests" / file).read_text(), re.MULTILINE), (file, test)
        assert re.search(r"\d", cells[4]), row
