"""Is a source what it seems to be, and does it stay that while it is read?"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alibi_cli.errors import AlibiError, explained
from alibi_cli.files.copying import BUFFER_BYTES
from alibi_cli.files.digests import checked_sha256, stamps
from alibi_cli.files.pickled import load_pickled
from alibi_cli.files.tensor_files import TensorInfo

if TYPE_CHECKING:
    from alibi_cli.models.source import Source

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


@contextmanager
def unchanged(source: "Source") -> Iterator[None]:
    """
    Raises:
        AlibiError: after the block, a file of the source is not the one that was there when the source was opened. If the block fails,
            that is the reason.
    """
    try:
        yield
    except Exception:
        _check_unchanged(source)
        raise
    _check_unchanged(source)


def _check_unchanged(source: "Source") -> None:
    for path, before in source.stamps.items():
        if not path.is_file() or stamps([path])[path] != before:
            raise AlibiError(
                f"{path} changed while it was being converted.", hint="Convert again when nothing writes to the source."
            )


def non_finite(source: "Source", names: Iterable[str]) -> list[str]:
    """Those of the tensors `names` that hold a NaN or an Inf. Reads the weights once, before anything is written; a thread per processor.

    Raises:
        AlibiError: a weight file cannot be read, or one of the Hub's cache does not have the digest that its name says.
    """
    by_shard: dict[Path, dict[str, TensorInfo]] = {}
    for name in names:
        shard, info = source.tensors[name]
        by_shard.setdefault(shard, {})[name] = info
    look = _pickled_non_finite if source.pickled else _non_finite
    with ThreadPoolExecutor(1 if source.pickled else os.cpu_count()) as pool:
        found = pool.map(look, by_shard, by_shard.values())
        return sorted(name for names in found for name in names)


def _pickled_non_finite(shard: Path, inside: dict[str, TensorInfo]) -> list[str]:
    if shard.is_symlink():
        checked_sha256(shard)
    tensors = load_pickled(shard)
    return [name for name in inside if not tensors[name].isfinite().all()]


def _non_finite(shard: Path, inside: dict[str, TensorInfo]) -> list[str]:
    if shard.is_symlink():
        checked_sha256(shard)
    buffer = np.empty(BUFFER_BYTES, "u1")
    with explained(f"Cannot read {shard}"), shard.open("rb", buffering=0) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        return [name for name, info in inside.items() if not _all_finite(file, start + info.begin, info, buffer)]


def _all_finite(file: RawIOBase, begin: int, info: TensorInfo, buffer: np.ndarray) -> bool:
    if info.dtype not in NOT_A_NUMBER:
        return True
    kind, ones = NOT_A_NUMBER[info.dtype]
    file.seek(begin)
    waiting = info.n_bytes
    while waiting and (n := file.readinto(buffer[:waiting].data)):  # a file that became shorter: `unchanged` says so
        bits = buffer[: n - n % np.dtype(kind).itemsize].view(kind)
        bits &= ones  # in place: nothing leaves the processor's cache
        if bits.size and bits.max() == ones:
            return False
        waiting -= n
    return True
