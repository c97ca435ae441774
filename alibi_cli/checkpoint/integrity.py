"""Is a source what it seems to be, and does it stay that while it is read?"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alibi_cli.checkpoint.pickled import load_pickled
from alibi_cli.checkpoint.safetensors_io import CHUNK_BYTES, TensorInfo, sha256_of
from alibi_cli.errors import AlibiError, explained

if TYPE_CHECKING:
    from alibi_cli.checkpoint.source import Source

# The bits that are all ones in a NaN or an Inf, and in no other number, by type; types that are not here have neither.
NOT_A_NUMBER = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "C64": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E8M0": ("u1", 0xFF),
}


class Stamp(NamedTuple):
    """What changes when a file is written to or replaced."""

    size: int
    modified_ns: int
    inode: int


def stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    found = {}
    for path in files:
        with explained(f"Cannot read {path}"):
            facts = path.stat()
        found[path] = Stamp(facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found


def check_unchanged(source: "Source") -> None:
    """
    Raises:
        AlibiError: a file of the source is not the one that was there when the source was opened.
    """
    for path, before in source.stamps.items():
        if not path.is_file() or stamps([path])[path] != before:
            raise AlibiError(
                f"{path} changed while it was being converted.", hint="Convert again when nothing writes to the source."
            )


def non_finite(source: "Source", names: Iterable[str]) -> list[str]:
    """Those of the tensors `names` that hold a NaN or an Inf. Reads the weights once, before anything is written.

    Raises:
        AlibiError: a weight file cannot be read, or one of the Hub's cache is not the file that its name promises.
    """
    by_shard: dict[Path, list[str]] = {}
    for name in names:
        by_shard.setdefault(source.tensors[name][0], []).append(name)
    found = []
    for shard, inside in by_shard.items():
        if shard.is_symlink():
            checked_sha256(shard)
        if source.pickled:
            tensors = load_pickled(shard)
            found += [name for name in inside if not tensors[name].isfinite().all()]
            continue
        with explained(f"Cannot read {shard}"), shard.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            for name in inside:
                info = source.tensors[name][1]
                file.seek(start + info.begin)
                if not _all_finite(file.read, info):
                    found.append(name)
    return sorted(found)


def _all_finite(read: Callable[[int], bytes], info: TensorInfo) -> bool:
    kind, ones = NOT_A_NUMBER.get(info.dtype, ("u1", 0))
    waiting, size = (info.n_bytes if ones else 0), np.dtype(kind).itemsize
    while waiting:
        chunk = read(min(CHUNK_BYTES, waiting))  # a multiple of every type's size
        if ((np.frombuffer(chunk[: len(chunk) // size * size], kind) & ones) == ones).any():
            return False
        waiting = waiting - len(chunk) if chunk else 0  # a file that became shorter: `check_unchanged` says so
    return True


def checked_sha256(path: Path) -> str:
    """sha256 of a file. The Hub's cache keeps large files under theirs, and links to them, so there it can be checked.

    Raises:
        AlibiError: such a file is not what its name promises: its download was damaged, or it was changed.
    """
    found, name = sha256_of(path), path.resolve().name
    if path.is_symlink() and len(name) == 64 and found != name:
        raise AlibiError(
            f"{path} is damaged: it is not the file that was to be downloaded.",
            hint=f"Delete {path.resolve()} and run again.",
        )
    return found
