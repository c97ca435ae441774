"""The words that `make lint` refuses: each is found where it stands, and what looks like it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_words import LEFT_OUT, WORDS, files, found_in
from tests.conftest import REPOSITORY


def check(*names: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/check_words.py", *map(str, names)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("better", "sentence"), [(better, sentence) for _, better, sentence in WORDS])
def test_each_is_found_with_what_to_write_instead(better: str, sentence: str) -> None:
    assert [found[2] for found in found_in(f"One line.\nThen {sentence}.")] == [better]


def test_the_line_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Fine.\nHere {WORDS[0][2]}.\n")
    result = check(page)
    assert result.returncode == 1 and result.stdout.startswith(f"{page}:2: ") and "write zero" in result.stdout
    page.write_text("Fine.\nHere the bias is zero.\n")
    assert (check(page).returncode, check(page).stdout) == (0, "")


@pytest.mark.parametrize(
    "sentence",
    [
        "a progress bar on stderr",
        "files that say `crop` load",
        "cache.crop(-1)",
        "one forward pass over 16,384 tokens",
        "let it go",
        "def commands(command: Any, words: str)",
        "the mean over seeds",
    ],
)
def test_words_of_the_field_are_left_alone(sentence: str) -> None:
    assert not list(found_in(sentence))


def test_every_file_that_a_reader_may_see_is_looked_at() -> None:
    names = {path.relative_to(REPOSITORY).as_posix() for path in files()}
    assert {"README.md", "Makefile", "pyproject.toml", "docs/cli.md", "alibi_cli/runtime/alibi_attention.py"} <= names
    assert not any(name.startswith(LEFT_OUT) for name in names)
