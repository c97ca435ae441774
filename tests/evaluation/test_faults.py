"""alibi eval on disks that fill up, with clocks that jump and with models that disappear."""

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alibi_cli import AlibiError
from alibi_cli.text.documents import Text
from tests.evaluation.helpers import asked, evaluate
from tests.evaluation.kill_evaluations import facts
from tests.fuzzing import cases, ran
from tests.models import save_tiny

TEXT = Text(
    "t", [(f"d{n}", f"{n} of the documents, each a little text of its own, and not a long one") for n in range(6)]
)
LENGTHS = (8, 16, 32)


def undisturbed(model: Path, output: Path) -> tuple[dict, dict[str, bytes]]:
    evaluate(asked([str(model)], LENGTHS, TEXT, output=output, resume=True))
    results, record = facts(output)
    return results, {name: tensor.tobytes() for name, tensor in record.items()}


def test_files_that_may_not_grow_beyond_a_limit(tiny_gpt2: Path, tmp_path: Path) -> None:
    """As on a disk that fills up: one message, no half-written file, and later the rest."""
    whole = undisturbed(tiny_gpt2, tmp_path / "whole.json")
    size = max(path.stat().st_size for path in tmp_path.glob("whole*"))
    before, n, failed = resource.getrlimit(resource.RLIMIT_FSIZE), cases(5, 40), 0
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "r.json"
    for index in range(n):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * (index + 1) // (n + 1), before[1]))
        try:
            evaluate(asked([str(tiny_gpt2)], LENGTHS, TEXT, output=output, resume=True))
        except AlibiError as error:
            failed += 1
            assert error.exit_code == 1 and error.message.startswith(f"Cannot write {output}: ")
            assert "File too large" in error.message and "\n" not in error.message
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {path.name for path in output.parent.iterdir()} <= {"r.json", "r.nll.safetensors"}
        assert undisturbed(tiny_gpt2, output) == whole
        for path in output.parent.iterdir():
            path.unlink()
        ran["evaluations on full disks"] += 1
    assert failed >= n - 2


def test_a_clock_that_jumps(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, now = undisturbed(tiny_gpt2, tmp_path / "a.json"), [time.time()]

    def jumping() -> float:
        now[0] += -3600 if int(now[0]) % 2 else 86_400
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    assert undisturbed(tiny_gpt2, tmp_path / "b.json") == whole


@pytest.mark.parametrize("stage", ["Loading", "at 8"])
def test_a_model_that_disappears(stage: str, tmp_path: Path) -> None:
    """Before its weights are read: one message. After that, it is no longer needed. Rows of the models before it are kept."""
    first, second = save_tiny("gpt2", tmp_path / "first"), save_tiny("llama", tmp_path / "second")
    output = tmp_path / "r.json"

    def remove(what: str, done: float, of: float) -> None:
        if (
            what.startswith(stage if stage == "Loading" else str(second))
            and second.exists()
            and (stage != "Loading" or done)
        ):
            shutil.rmtree(second)

    work: Callable[[], object] = lambda: evaluate(  # noqa: E731
        asked([str(first), str(second)], LENGTHS, TEXT, output=output), remove
    )
    if stage == "Loading":
        with pytest.raises(AlibiError, match=r"second cannot be loaded|Cannot read .*second"):
            work()
        assert {row["model"] for row in facts(output)[0]["rows"]} == {str(first)}
    else:
        work()
        assert len(facts(output)[0]["rows"]) == 8
    assert not list(tmp_path.glob("*.lock")) and not second.exists()
