"""alibi convert where the system says no: one message, nothing half-written, the source as it was.

Small and read-only file systems are real ones where this process may mount them; files whose reading fails are simulated.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from alibi_cli import AlibiError
from alibi_cli.conversion.writer import write
from tests.checkpoint.helpers import at_stage, convert, plan_of, snapshot
from tests.cli.run import alibi, alibi_here
from tests.models import save_tiny


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """A real file system of `size` bytes; skips the test where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(source: Path, output: Path, **options: object) -> AlibiError:
    """Converts, which must fail; checks what holds for every failure."""
    before, around = snapshot(source), set(output.parent.iterdir()) if output.parent.is_dir() else set()
    with pytest.raises(AlibiError) as error:
        convert(source, output, **options)
    assert error.value.exit_code == 1 and len(error.value.message.splitlines()) == 1
    assert snapshot(source) == before
    assert (set(output.parent.iterdir()) if output.parent.is_dir() else set()) == around
    return error.value


def needed(source: Path, output: Path) -> int:
    return plan_of(source, output).bytes_to_write


def test_too_small_a_disk_is_known_before_anything_is_written(tiny_gpt2: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 65536) as disk:
        error = refused(tiny_gpt2, disk / "out")
        assert "the disk has" in error.message


def test_a_disk_that_fills_up_while_it_is_written_to(tiny_gpt2: Path, tmp_path: Path) -> None:
    """What the plan counts fits; what comes on top, the runtime files and the card, fills the disk at a place that moves."""
    size, page, full = needed(tiny_gpt2, tmp_path / "out"), os.sysconf("SC_PAGESIZE"), 0
    for extra in (*range(10), 100):
        with tmpfs(tmp_path / "disk", size + extra * page) as disk:
            if extra == 100:  # the control: this is enough
                convert(tiny_gpt2, disk / "out", check=False)
            else:
                full += "No space left" in refused(tiny_gpt2, disk / "out", check=False).message
    assert full == 10


def test_files_that_may_not_grow_beyond_a_limit(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The same without mounting anything: the kernel refuses to let a file of this process grow, at 20 places."""
    size = (tiny_gpt2 / "model.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in range(0, size - 15_000, size // 20):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            assert "File too large" in refused(tiny_gpt2, tmp_path / "out", check=False).message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    convert(tiny_gpt2, tmp_path / "out", check=False)


def test_pickled_weights_on_a_full_disk(tiny_gpt2: Path, tmp_path: Path) -> None:
    """safetensors writes these, with errors of its own."""
    from safetensors.torch import load_file

    torch.save(load_file(tiny_gpt2 / "model.safetensors"), tiny_gpt2 / "pytorch_model.bin")
    (tiny_gpt2 / "model.safetensors").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, before[1]))
    try:
        assert "too large" in refused(tiny_gpt2, tmp_path / "out").message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_read_only_file_system(tiny_gpt2: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 4 << 20) as disk:
        shutil.copytree(tiny_gpt2, disk / "source")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only file system" in refused(tiny_gpt2, disk / "out").message
        result = alibi_here("convert", tiny_gpt2, "-o", disk / "deeper" / "out")
        assert result.exit_code == 1 and "Read-only file system" in result.error.message
        convert(disk / "source", tmp_path / "out")  # nothing is ever written to a source


@pytest.fixture
def shared(tiny_gpt2: Path) -> Iterator[Path]:
    """A folder that everybody can enter, unlike those of pytest, with the model in it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    shutil.copytree(tiny_gpt2, folder / "source")
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Permissions do not bind root: for a while, this process is somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("what", ["model.safetensors", "config.json", "tokenizer.json", ".", "output"])
def test_permission_denied(what: str, shared: Path) -> None:
    convert(shared / "source", shared / "warm", check=False)  # modules that are loaded late
    shutil.rmtree(shared / "warm")
    target, output = shared / "source" / what, shared / "out"
    if what == "output":
        target = shared / "mine"
        target.mkdir()
        output = target / "out"
    before = snapshot(shared)
    mode = target.stat().st_mode
    target.chmod(0o555 if what == "output" else 0)
    try:
        with nobody(), pytest.raises(AlibiError, match="Permission denied") as error:
            convert(shared / "source", output)
    finally:
        target.chmod(mode)
    assert error.value.exit_code == 1 and len(error.value.message.splitlines()) == 1
    assert snapshot(shared) == before and not output.exists() and not list(shared.rglob("*.partial*"))


def broken(*args: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


class Failing:
    """A file whose reading fails after some bytes, as that of a bad disk does."""

    def __init__(self, file, after: int):
        self.file, self.left = file, after

    def read(self, n: int = -1) -> bytes:
        return self._counted(self.file.read(n))

    def readinto(self, buffer) -> int:
        return len(self._counted(self.file.read(len(buffer))))

    def _counted(self, content: bytes) -> bytes:
        self.left -= len(content)
        return content if self.left >= 0 else bytes(broken())

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def test_read_errors_at_many_places(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While headers are read, while weights are looked at, while they are copied, and in a side file."""
    real = Path.open
    size = (tiny_gpt2 / "model.safetensors").stat().st_size
    # Opened first for its header, then to look for NaN, for its header again, and to be copied.
    inside = (0, size // 3, size - 15_000)
    afters = [(0, 9), inside, (0, 9), inside]
    places = [("model.safetensors", nth, after) for nth, them in enumerate(afters) for after in them]
    for name, nth, after in [*places, ("tokenizer.json", 0, 3)]:
        opened = 0

        def opening(self: Path, mode: str = "r", *args, name=name, after=after, nth=nth, **options):
            nonlocal opened
            file = real(self, mode, *args, **options)
            if self.parent == tiny_gpt2 and self.name == name and mode == "rb":
                opened += 1
                return Failing(file, after) if opened == nth + 1 else file
            return file

        monkeypatch.setattr(Path, "open", opening)
        for kernel in ("copy_file_range", "sendfile"):
            monkeypatch.setattr(os, kernel, broken)
        with pytest.raises(AlibiError, match=f"Cannot read .*{name}: Input/output error"):
            convert(tiny_gpt2, tmp_path / "out", check=False)
        monkeypatch.undo()
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_read_errors_in_a_file_that_stays_as_it_is(nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened to look for NaN, to be copied, and to be compared with its copy."""
    plan = plan_of(save_tiny("llama", tmp_path / "source"), tmp_path / "out")
    real, opened = Path.open, 0

    def opening(self: Path, mode: str = "r", *args, **options):
        nonlocal opened
        file = real(self, mode, *args, **options)
        if self == tmp_path / "source" / "model.safetensors":
            opened += 1
            return Failing(file, 0) if opened == nth + 1 else file
        return file

    monkeypatch.setattr(Path, "open", opening)
    for kernel in ("copy_file_range", "sendfile"):
        monkeypatch.setattr(os, kernel, broken)
    with pytest.raises(AlibiError, match=r"Cannot read .*source/model\.safetensors: Input/output error"):
        write(plan)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert write(plan).verified


CHANGES: dict[str, Callable[[Path], object]] = {
    "a side file grows": lambda folder: (folder / "tokenizer.json").open("a").write(" "),
    "weights of the same size": lambda folder: rewrite(folder / "model.safetensors"),
    "weights become shorter": lambda folder: os.truncate(folder / "model.safetensors", 100_000),
    "a file is replaced": lambda folder: (
        shutil.copy2(folder / "config.json", folder.parent / "c"), (folder.parent / "c").rename(folder / "config.json")),
    "a file goes": lambda folder: (folder / "generation_config.json").unlink(),
}  # fmt: skip


def rewrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("when", ["Checking", "Writing", "Verifying"])
def test_a_source_that_changes_while_it_is_converted(how: str, when: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny_gpt2, tmp_path / "out")
    time.sleep(0.02)  # file systems do not tell times that are closer
    with pytest.raises(AlibiError) as error:
        write(plan, progress=at_stage(when, lambda: CHANGES[how](tiny_gpt2)))
    assert error.value.exit_code == 1 and len(error.value.message.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*partial*"))
    if when != "Checking":
        assert "changed while it was being converted" in error.value.message


def test_a_link_is_not_followed_to_an_output(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    result = alibi_here("convert", tiny_gpt2, "-o", tmp_path / "out", "--force")
    assert result.exit_code == 2 and "is a link" in result.error.message and not any((tmp_path / "real").iterdir())
    (tmp_path / "other.partial").symlink_to(tmp_path / "real")
    with pytest.raises(AlibiError, match="not made by an interrupted"):
        convert(tiny_gpt2, tmp_path / "other")


def test_two_runs_at_once_on_one_output(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The second, a process of its own, comes while the first verifies; another, which looks earlier, when the first has started."""
    plan, seen = plan_of(tiny_gpt2, tmp_path / "out"), []

    def another() -> None:
        seen.append(alibi("convert", tiny_gpt2, "-o", tmp_path / "out", code=1).stderr)

    report = write(plan, progress=at_stage("Verifying", another))
    assert "Another run is writing" in seen[0] and seen[0].count("\n") == 2
    assert report.verified is not None and report.verified.passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny-gpt2"]
    error = convert(tiny_gpt2, tmp_path / "out", force=True)  # the lock is gone with the first
    assert error.verified is not None


def test_a_clock_that_goes_backwards(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in tiny_gpt2.iterdir():
        os.utime(path, (4e9, 4e9))  # written in the year 2096
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    report = convert(tiny_gpt2, tmp_path / "out")
    assert report.verified is not None and report.verified.passed and report.seconds >= 0


def test_every_file_is_flushed_before_the_folder_gets_its_name(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen_fsync(handle: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def seen_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    (tiny_gpt2 / "extra").mkdir()
    (tiny_gpt2 / "extra" / "note.txt").write_text("x")
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    convert(tiny_gpt2, tmp_path / "out")
    partial, at = tmp_path / "out.partial", events.index("rename")
    written = {
        str(partial),
        *(str(partial / path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")),
    }
    assert written <= set(events[:at]) and events[at + 1 :] == [str(tmp_path)]


def test_facts_about_a_failure_in_at_most_three_lines(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    result = alibi("convert", tiny_gpt2, "-o", tmp_path / "out" / "below", code=2)
    assert (
        result.stderr.count("\n") <= 3 and "Traceback" not in result.stderr and str(tmp_path / "out") in result.stderr
    )
    debug = alibi("convert", tiny_gpt2, "-o", tmp_path / "out" / "below", code=1, env={"ALIBI_DEBUG": "1"})
    assert "Traceback" in debug.stderr and json.dumps(result.stdout) == '""'
