"""Where alibi convert writes: nothing lost, nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from alibi_cli import AlibiError
from alibi_cli.files.atomic import MARKER, partial_folder
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_inside


def test_output_is_refused_or_replaced(tiny_gpt2: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    convert(tiny_gpt2, out)  # an empty folder may be used
    result = alibi_inside("convert", tiny_gpt2, "-o", out, code=2)
    assert "not empty" in result.stderr and "--force" in result.stderr and result.stdout == ""
    (out / "mine.txt").write_text("old")
    alibi_inside("convert", tiny_gpt2, "-o", out, "--force")
    assert not (out / "mine.txt").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny-gpt2"]
    for bad in (tiny_gpt2, tiny_gpt2 / "inside", tmp_path):
        assert alibi_inside("convert", tiny_gpt2, "-o", bad, "--force", code=2).stderr.count("\n") <= 2


def test_a_failed_verification_leaves_nothing_under_the_final_name(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is corrupted between writing and verifying, as a bad disk would; the old folder survives --force."""
    from alibi_cli.conversion import writer

    real = writer._write_files

    def corrupting(plan, folder, *args):
        real(plan, folder, *args)
        tensors = load_file(folder / "model.safetensors")
        tensors["transformer.h.0.attn.c_attn.weight"][0, 0] += 0.5
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(writer, "_write_files", corrupting)
    with pytest.raises(AlibiError, match="Verification failed") as error:
        convert(tiny_gpt2, tmp_path / "out")
    assert error.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-gpt2"]


def test_an_interrupted_run_is_cleaned_up_and_a_strangers_folder_is_not(tiny_gpt2: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "precious").touch()
    with pytest.raises(AlibiError, match="not made by an interrupted conversion"):
        convert(tiny_gpt2, tmp_path / "out")
    assert (partial / "precious").exists()
    (partial / MARKER).touch()
    convert(tiny_gpt2, tmp_path / "out")
    assert not partial.exists() and (tmp_path / "out" / "alibi.json").exists()


@pytest.mark.parametrize("call", ["mkdir", "touch", "unlink", "rename"])
def test_an_interrupt_at_any_call_leaves_no_folder(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is busy can hold a call for long, and a signal is answered when it returns."""
    real = getattr(Path, call)

    def interrupted(path: Path, *words: object, **options: object) -> None:
        real(path, *words, **options)
        if "out.partial" in str(path) and path.suffix != ".lock":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, call, interrupted)
    with pytest.raises(KeyboardInterrupt), partial_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("of the checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if call == "rename" else [])


def test_default_output_is_named_after_the_model(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_gpt2.parent)
    alibi_inside("convert", "tiny-gpt2", "--no-verify")
    assert (tiny_gpt2.parent / "tiny-gpt2-alibi" / "alibi.json").exists()
    assert json.loads((tiny_gpt2.parent / "tiny-gpt2-alibi" / "alibi.json").read_text())["verified"] is None
    shutil.rmtree(tiny_gpt2.parent / "tiny-gpt2-alibi")


def test_a_failed_rename_brings_the_old_folder_back(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("old")
    real = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "out.partial":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(AlibiError, match="No space"):
        convert(tiny_gpt2, out, force=True)
    assert (out / "precious").read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "tiny-gpt2",
    ]


def test_output_in_the_current_folder_and_odd_side_files(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_gpt2 / "README.md").write_text("---\ntitle: a: b\n---\ntext")
    (tiny_gpt2 / "README.source.md").write_text("of an earlier conversion")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    alibi_inside("convert", tiny_gpt2, "-o", ".", "--no-verify")
    assert (tmp_path / "here" / "README.source.md").read_text().endswith("text")
    assert "local folder" in alibi_inside("convert", tiny_gpt2, "--revision", "v1", code=2).stderr


def test_folders_of_others_are_left_alone(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("out.replaced", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    for _ in range(2):
        convert(tiny_gpt2, tmp_path / "out", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.old", "out.replaced", "tiny-gpt2"]
    assert (tmp_path / "out.replaced" / "notes.txt").read_text() == "mine"
