"""Bytes from file to file: moved by the kernel where it can, hashed, compared and flushed by others while still in memory."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO

from alibi_cli.errors import AlibiError, explained
from alibi_cli.files.atomic import fsync

PIECE_BYTES = 4 << 20  # handed to the kernel at a time; progress and hashing follow piece by piece
FILES_AT_A_TIME = 4  # while one waits for the disk, another is hashed; a disk that must seek loses by many
BUFFER_BYTES = 256 << 10  # read at a time: what is looked at is then still in the processor's cache


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None] = lambda n: None) -> None:
    """Copies a file's bytes.

    Raises:
        AlibiError: `source` cannot be read, or became shorter. OSError: `target` cannot be written.
    """
    with explained(f"Cannot read {source}"):
        reader = source.open("rb")
    with reader, target.open("xb") as writer:
        append(reader, writer, 0, source.stat().st_size, on_bytes)


def link_file(source: Path, target: Path, on_bytes: Callable[[int], None] = lambda n: None) -> None:
    """Another name for the same bytes.

    Raises:
        AlibiError: the file system cannot link these.
    """
    with explained(f"Cannot link {target} to {source}", hint="Without `link` it is copied."):
        os.link(source.resolve(), target)  # of the Hub's cache, the file itself and not the link to it
    on_bytes(target.stat().st_size)


def append(reader: BinaryIO, writer: BinaryIO, begin: int, n_bytes: int, on_bytes: Callable[[int], None]) -> None:
    """Appends `n_bytes` bytes of one open file, from `begin` on, to another.

    What the kernel refuses, for whatever reason, is tried by hand, which tells a file that cannot be read from one that cannot be written.
    """
    writer.flush()
    while n_bytes:
        copied = _by_kernel(reader, writer, begin, min(n_bytes, PIECE_BYTES))
        copied = copied or _by_hand(reader, writer, begin, min(n_bytes, BUFFER_BYTES))
        on_bytes(copied)
        begin, n_bytes = begin + copied, n_bytes - copied


def _by_kernel(reader: BinaryIO, writer: BinaryIO, begin: int, n_bytes: int) -> int:
    """Bytes copied: some or, if this cannot be done here, none.

    copy_file_range works within a file system, and lets those that can (btrfs, XFS) share the blocks; sendfile between two.
    """
    source, target = reader.fileno(), writer.fileno()
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):
            if copied := os.copy_file_range(source, target, n_bytes, begin):
                return copied
    if hasattr(os, "sendfile"):
        with contextlib.suppress(OSError):
            return os.sendfile(target, source, begin, n_bytes)
    return 0


def _by_hand(reader: BinaryIO, writer: BinaryIO, begin: int, n_bytes: int) -> int:
    with explained(f"Cannot read {reader.name}"):
        reader.seek(begin)
        chunk = reader.read(n_bytes)
    if not chunk:
        raise AlibiError(f"{reader.name} became shorter while it was being copied.")
    writer.write(chunk)
    writer.flush()
    return len(chunk)


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """sha256 of a file, in hexadecimal.

    Raises:
        AlibiError: it cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with explained(f"Cannot read {path}"), path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            digest.update(buffer[:n])
            on_bytes(n)
    return digest.hexdigest()


class Writing:
    """Files that are being written, several at a time; each is hashed and flushed beside that.

    The digests are of what the files hold, read back from the page cache, not of what was meant to be written. Leaving the block with an
    error ends what is being written at its next piece. `on_bytes` is called from other threads, one at a time.
    """

    def __init__(self, on_bytes: Callable[[int], None] = lambda n: None, files_at_a_time: int = FILES_AT_A_TIME):
        self._pools = [ThreadPoolExecutor(n) for n in (files_at_a_time, os.cpu_count(), 1)]
        self._writing, self._hashing, self._flushing = self._pools
        self._writes: dict[Path, Future[None]] = {}
        self._files: dict[Path, _Followed] = {}
        self._on_bytes, self._counting, self._stopped = on_bytes, Lock(), Event()

    def __enter__(self) -> "Writing":
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        for followed in self._files.values():
            followed.close()

    def start(
        self,
        target: Path,
        write: Callable[[Callable[[int], None]], None],
        drop_cache: bool = False,
        same_as: Path | None = None,
    ) -> None:
        """Begins a file, in another thread: `write` makes it and calls its argument with the bytes of each piece.

        drop_cache: evict its pages from the page cache; nobody is going to read them soon. same_as: a file whose bytes it must have.
        """
        self._writes[target] = self._writing.submit(self._write, target, write, drop_cache, same_as)

    def digests(self) -> dict[str, str]:
        """{name: sha256} of all files, which are written and on the disk by then.

        Raises:
            OSError, AlibiError: one of them could not be written, read back or flushed, or is not what it must be.
        """
        for written in as_completed(self._writes.values()):
            written.result()
        for followed in self._files.values():
            followed.flushed.result()
        return {path.name: followed.digest for path, followed in sorted(self._files.items())}

    def _write(
        self, target: Path, write: Callable[[Callable[[int], None]], None], drop_cache: bool, same_as: Path | None
    ) -> None:
        reading: Future[None] | None = None

        def arrived(n_bytes: int) -> None:
            nonlocal reading
            if self._stopped.is_set():
                raise CancelledError
            with self._counting:
                self._on_bytes(n_bytes)
            if target not in self._files:
                self._files[target] = _Followed(target, drop_cache, same_as)
            if reading is not None:
                reading.result()  # at most one piece is not read yet while the next is written
            reading = self._hashing.submit(self._files[target].read_on)

        write(arrived)
        arrived(0)  # of a file without a single piece
        assert reading is not None
        reading.result()
        self._files[target].flushed = self._flushing.submit(self._files[target].flush)


class _Followed:
    """A file that is being written, and the hash of its bytes so far.

    drop_cache: evict its pages once they are on the disk (`posix_fadvise(DONTNEED)`). Otherwise the copy occupies as much page cache as the
    weights, evicts the source on small machines, and in a virtual machine waits for memory from the host, which takes longer than all else.
    """

    flushed: Future[None]

    def __init__(self, path: Path, drop_cache: bool, same_as: Path | None) -> None:
        self._path, self._same_as, self._drop_cache = path, same_as, drop_cache and hasattr(os, "posix_fadvise")
        self._hash, self._content, self._expected = hashlib.sha256(), bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)
        self._file, self._other = path.open("rb", buffering=0), None
        if same_as is not None:
            with explained(f"Cannot read {same_as}"):
                self._other = same_as.open("rb")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def read_on(self) -> None:
        """
        Raises:
            AlibiError: the file has other bytes than it must have, or these cannot be read.
        """
        while n := self._file.readinto(self._content):
            self._hash.update(memoryview(self._content)[:n])
            if self._other is not None:
                with explained(f"Cannot read {self._same_as}"):
                    m = self._other.readinto(memoryview(self._expected)[:n])
                if m != n or self._content != self._expected:  # what is beyond n has been compared before
                    raise AlibiError(f"Verification failed: {self._path.name} is not what {self._same_as} holds.")
        self._forget()  # what is not on the disk yet is sent there, and evicted the next time

    def flush(self) -> None:
        fsync(self._path)
        self._forget()

    def _forget(self) -> None:
        if self._drop_cache:
            os.posix_fadvise(self._file.fileno(), 0, self._file.tell(), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._file.close()
        if self._other is not None:
            self._other.close()
