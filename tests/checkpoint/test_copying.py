"""How bytes get into a converted checkpoint, and what is made of them on the way."""

import errno
import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from alibi_cli import AlibiError
from alibi_cli.checkpoint import copying
from alibi_cli.checkpoint.audit import audit
from alibi_cli.checkpoint.copying import Writing, copy_file
from alibi_cli.checkpoint.partial import partial_folder
from alibi_cli.checkpoint.safetensors_io import read_header
from tests.checkpoint.helpers import convert, snapshot
from tests.cli.run import alibi_here, alibi_json
from tests.models import save_tiny


def refuse(*args: int) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # a shard that is rewritten, a shard that is not touched
def test_every_way_of_copying_gives_the_same_bytes(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_tiny(family, tmp_path / "source")
    monkeypatch.setattr(copying, "PIECE_BYTES", 40_000)  # many pieces, not of a whole number of pages
    real = {"copy_file_range": os.copy_file_range, "sendfile": os.sendfile}
    used = dict.fromkeys(real, 0)

    def counting(name: str):
        def call(*args: int) -> int:
            used[name] += 1
            return real[name](*args)

        return call

    found = {}
    for refused in [(), ("copy_file_range",), ("copy_file_range", "sendfile"), ("nothing copied",)]:
        for name in real:
            monkeypatch.setattr(os, name, refuse if name in refused else counting(name))
        if refused == ("nothing copied",):  # what some file systems answer instead of an error
            monkeypatch.setattr(os, "copy_file_range", lambda *args: 0)
        used = dict.fromkeys(real, 0)
        output = tmp_path / "out"
        convert(source, output, force=True, check=False)
        assert audit(output).passed
        found[refused] = (used["copy_file_range"] > 0, used["sendfile"] > 0, snapshot(output)["model.safetensors"])
    assert [ways[:2] for ways in found.values()] == [(True, False), (False, True), (False, False), (False, True)]
    assert len({digest for *_, digest in found.values()}) == 1


def test_a_file_that_cannot_be_written_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are written at a time, the first in a hundred pieces; when the second fails, neither the first nor the third goes on."""
    source, pieces = tmp_path / "source", []
    source.write_bytes(bytes(10_000))
    monkeypatch.setattr(copying, "PIECE_BYTES", 100)
    real = os.copy_file_range

    def slow(*args: int) -> int:
        pieces.append(args)
        time.sleep(0.01)
        return real(*args)

    def full(arrived: object) -> None:
        while len(pieces) < 3:
            time.sleep(0.001)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", slow)
    with (
        pytest.raises(AlibiError, match="No space left"),
        partial_folder(tmp_path / "out") as folder,
        Writing(files_at_a_time=2) as writing,
    ):
        writing.start(folder / "first", partial(copy_file, source, folder / "first"))
        writing.start(folder / "second", full)
        writing.start(folder / "third", partial(copy_file, source, folder / "third"))
        writing.digests()
    assert [path.name for path in tmp_path.iterdir()] == ["source"] and 3 <= len(pieces) < 50


def test_a_file_without_bytes_has_a_digest(tmp_path: Path) -> None:
    with Writing() as writing:
        writing.start(tmp_path / "empty", lambda arrived: (tmp_path / "empty").touch())
        assert writing.digests() == {"empty": hashlib.sha256(b"").hexdigest()}


def test_the_digest_is_of_what_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that copies wrongly, as some did: digests of the source would say that all is well."""
    source, output = save_tiny("llama", tmp_path / "source"), tmp_path / "out"

    def wrong(reader: int, writer: int, n_bytes: int, begin: int) -> int:
        content = bytearray(os.pread(reader, n_bytes, begin))
        content[-1] ^= 1
        return os.write(writer, content)

    monkeypatch.setattr(os, "copy_file_range", wrong)
    convert(source, output, check=False)
    facts = json.loads((output / "alibi.json").read_text())
    assert facts["sha256"]["model.safetensors"] == snapshot(output)["model.safetensors"]
    assert facts["sha256"]["model.safetensors"] != snapshot(source)["model.safetensors"]


def test_linked_shards_are_the_same_file_and_others_are_not(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "llama")
    report = alibi_json("convert", source, "-o", tmp_path / "out", "--link")
    shard, original = tmp_path / "out" / "model.safetensors", source / "model.safetensors"
    assert report["verified"]["passed"] and shard.samefile(original) and audit(tmp_path / "out").passed
    assert not (tmp_path / "out" / "tokenizer.json").samefile(source / "tokenizer.json")
    convert(source, tmp_path / "copied")
    assert not (tmp_path / "copied" / "model.safetensors").samefile(original)
    with original.open("r+b") as file:  # what --help warns of
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert not audit(tmp_path / "out").passed and audit(tmp_path / "copied").passed
    rewritten = save_tiny("gpt2", tmp_path / "gpt2")
    assert alibi_here("convert", rewritten, "-o", tmp_path / "other", "--link").exit_code == 0
    assert (tmp_path / "other" / "model.safetensors").stat().st_nlink == 1


def test_what_cannot_be_linked_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny("llama", tmp_path / "source")
    monkeypatch.setattr(os, "link", refuse)
    result = alibi_here("convert", source, "-o", tmp_path / "out", "--link")
    assert result.exit_code == 1 and "Invalid cross-device link" in result.error.message
    assert "--link" in result.error.hint and [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_file_that_cannot_be_read_back_or_flushed_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both happen in other threads, whose errors must not be lost."""
    source = save_tiny("llama", tmp_path / "source")

    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for what in ("fsync", "_read_on"):
        monkeypatch.setattr(copying, what, broken)
        with pytest.raises(AlibiError, match="Input/output error"):
            convert(source, tmp_path / "out", check=False)
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
    convert(source, tmp_path / "out", check=False)
    assert read_header(tmp_path / "out" / "model.safetensors").tensors
