"""What README and tutorial show is what the commands print; and the comparison can tell."""

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.python import python
from tests.test_documentation import FENCE, script


def test_what_the_readme_and_the_tutorial_show_is_what_commands_print(monkeypatch: pytest.MonkeyPatch) -> None:
    console = script("write_console_output")
    monkeypatch.setattr(console, "python", python)
    console.main(check=True)


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = [
        block for _, language, block in FENCE.findall((REPOSITORY / "README.md").read_text()) if language == "python"
    ]
    result = python("-c", block, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "curve.png").stat().st_size > 10_000 and (tmp_path / "kept" / "alibi.json").is_file()


def test_output_may_differ_in_time_and_in_the_last_digit_and_in_nothing_else() -> None:
    console = script("write_console_output")
    old = "written  x, 4.0 MB in 5.3 s\nmodel  512  2.334  -0.0002  improves\n"
    assert console.same(old.replace("5.3", "99"), old) and console.same(old.replace("2.334", "2.335"), old)
    assert console.same(old.replace("-0.0002", "+0.0001"), old)
    for wrong in (("2.334", "2.934"), ("improves", "degrades"), ("4.0 MB", "4.0 GB"), ("512", "1024")):
        assert not console.same(old.replace(*wrong), old), wrong
    assert console.same(old.replace("2.334", "2.934"), old, figures=False)
    assert console.elided("a\nb\nc\nd\n", "a\n…\nd\n") == "a\n…\nd\n"
