"""alibi train on disks that fill up, with clocks that jump, with checkpoints that disappear and texts that change."""

import resource
import shutil
import time
from pathlib import Path

import pytest

from alibi_cli import AlibiError
from alibi_cli.conversion.verify import verify
from alibi_cli.progress import Progress
from tests.fuzzing import cases, ran
from tests.training.helpers import heal, same_weights, text_file, tiny_converted

RUN = dict(save_every=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alibi: a checkpoint. text.txt. out: trained, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    heal(tiny_converted(folder), folder / "out", text_file(folder), **RUN)
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith((".lock", ".partial"))}


def test_files_that_may_not_grow_beyond_a_limit(whole: Path, tmp_path: Path) -> None:
    """As on a disk that fills up, while the text, a state or the result is written: one message, nothing under the final name; what was
    saved before is continued to the bits of a run that nobody disturbed."""
    size = (whole / "out" / "model.safetensors").stat().st_size
    before, limits = resource.getrlimit(resource.RLIMIT_FSIZE), [n / cases(3, 20) for n in range(cases(3, 20))]
    for index, share in enumerate(limits):
        out = tmp_path / f"out{index}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 + int(size * 2.5 * share), before[1]))
        try:
            with pytest.raises(AlibiError, match="Cannot write") as error:
                heal(whole / "llama-alibi", out, whole / "text.txt", **RUN)
            assert error.value.exit_code == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not out.exists() and not left(tmp_path)
        heal(whole / "llama-alibi", out, whole / "text.txt", **RUN, resume=True)
        assert (
            same_weights(out, whole / "out")
            and verify(out).passed
            and not out.with_name(f"{out.name}.training").exists()
        )
        ran["training runs on full disks"] += 1


def test_a_clock_that_jumps(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]

    def jumping() -> float:
        now[0] += -3600 if int(now[0]) % 2 else 86_400
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    report = heal(whole / "llama-alibi", tmp_path / "out", whole / "text.txt", **RUN)
    assert same_weights(tmp_path / "out", whole / "out") and 0 < report.seconds < 3600


class Stop(Exception):
    pass


def test_a_text_that_changes_before_the_run_is_continued(whole: Path, tmp_path: Path) -> None:
    """The tokens of the text were kept with the state: the continuation sees what the run would have seen."""
    text = Path(shutil.copy(whole / "text.txt", tmp_path))

    def stop(step: Progress) -> None:
        if step.what.startswith("Training, loss") and step.done >= 3:
            raise Stop

    with pytest.raises(Stop):
        heal(whole / "llama-alibi", tmp_path / "out", text, **RUN, progress=stop)
    text.write_text("something else entirely\n\n" * 40)
    report = heal(whole / "llama-alibi", tmp_path / "out", text, **RUN, resume=True)
    assert report.resumed_at == [2] and same_weights(tmp_path / "out", whole / "out")
    heal(whole / "llama-alibi", tmp_path / "other", text, **RUN)  # the control
    assert not same_weights(tmp_path / "other", whole / "out")


def test_a_checkpoint_that_disappears_while_it_is_trained(whole: Path, tmp_path: Path) -> None:
    """One message, nothing under the final name; once it is there again, the run is continued."""
    checkpoint, text = Path(shutil.copytree(whole / "llama-alibi", tmp_path / "m")), whole / "text.txt"

    def remove(step: Progress) -> None:
        if step.what.startswith("Training, loss") and checkpoint.exists():
            checkpoint.rename(tmp_path / "elsewhere")

    with pytest.raises(AlibiError, match="Cannot read") as error:
        heal(checkpoint, tmp_path / "out", text, **RUN, progress=remove)
    assert error.value.exit_code == 1 and not (tmp_path / "out").exists() and not left(tmp_path)
    (tmp_path / "elsewhere").rename(checkpoint)
    heal(checkpoint, tmp_path / "out", text, **RUN, resume=True)
    assert same_weights(tmp_path / "out", whole / "out")
