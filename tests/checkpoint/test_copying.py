"""How bytes get into a converted checkpoint, and what is made of them on the way."""

import ctypes
import errno
import hashlib
import json
import mmap
import os
import time
from functools import partial
from pathlib import Path

import pytest

from alibi_cli import AlibiError
from alibi_cli.conversion.verify import verify
from alibi_cli.files import copying
from alibi_cli.files.atomic import partial_folder
from alibi_cli.files.copying import Writing, copy_file
from alibi_cli.files.tensor_files import read_header
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
        assert verify(output).passed
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


@pytest.mark.parametrize("piece", [0, 1, 2])
def test_a_copy_that_is_not_what_it_was_made_of(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that copies wrongly, as some did: unverified, the digest is at least of what is in the file."""
    source, output = save_tiny("llama", tmp_path / "source"), tmp_path / "out"
    original = snapshot(source)["model.safetensors"]
    monkeypatch.setattr(copying, "PIECE_BYTES", (source / "model.safetensors").stat().st_size // 3 + 1)
    calls = []

    def wrong(reader: int, writer: int, n_bytes: int, begin: int) -> int:
        content = bytearray(os.pread(reader, n_bytes, begin))
        content[-1] ^= len(calls) % 3 == piece
        calls.append(begin)
        return os.write(writer, content)

    monkeypatch.setattr(os, "copy_file_range", wrong)
    with pytest.raises(AlibiError, match=r"Verification failed: model\.safetensors is not what"):
        convert(source, output)
    assert len(calls) <= piece + 2 and [path.name for path in tmp_path.iterdir()] == ["source"]
    calls.clear()
    convert(source, output, check=False)
    digest = json.loads((output / "alibi.json").read_text())["sha256"]["model.safetensors"]
    assert len(calls) >= 3 and digest == snapshot(output)["model.safetensors"] != original


def test_copies_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Nor does it harm what they are made of, which is read again."""

    def in_memory(path: Path) -> float:
        """The part of a file that is in the page cache."""
        pages = -(-path.stat().st_size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
            assert ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(path.stat().st_size), found) == 0
            del address
        return sum(page & 1 for page in found) / pages

    source = tmp_path / "source"
    source.write_bytes(os.urandom(64 << 20))
    with source.open("rb") as file:
        os.fsync(file.fileno())
    for name, drop_cache in (("kept", False), ("evicted", True)):
        with Writing() as writing:
            writing.start(tmp_path / name, partial(copy_file, source, tmp_path / name), drop_cache=drop_cache)
            writing.digests()
    if in_memory(source) < 0.5:
        pytest.skip("memory is short here")
    assert in_memory(tmp_path / "kept") == 1 and in_memory(source) > 0.9
    if in_memory(tmp_path / "evicted") == 1:
        pytest.skip("this file system is in memory")
    assert in_memory(tmp_path / "evicted") < 0.5


def test_linked_shards_are_the_same_file_and_others_are_not(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "llama")
    report = alibi_json("convert", source, "-o", tmp_path / "out", "--link")
    shard, original = tmp_path / "out" / "model.safetensors", source / "model.safetensors"
    assert report["verified"]["passed"] and shard.samefile(original) and verify(tmp_path / "out").passed
    assert not (tmp_path / "out" / "tokenizer.json").samefile(source / "tokenizer.json")
    convert(source, tmp_path / "copied")
    assert not (tmp_path / "copied" / "model.safetensors").samefile(original)
    with original.open("r+b") as file:  # what --help warns of
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert not verify(tmp_path / "out").passed and verify(tmp_path / "copied").passed
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

    for where, what in ((copying, "fsync"), (copying._Followed, "read_on")):
        monkeypatch.setattr(where, what, broken)
        with pytest.raises(AlibiError, match="Input/output error"):
            convert(source, tmp_path / "out", check=False)
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
    convert(source, tmp_path / "out", check=False)
    assert read_header(tmp_path / "out" / "model.safetensors").tensors
