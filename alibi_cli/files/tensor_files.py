"""The safetensors container, read and written as bytes: a tensor that surgery leaves alone is never decoded.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header {name: {dtype, shape,
data_offsets}}, then the tensors' bytes without gaps.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from alibi_cli.errors import AlibiError, explained
from alibi_cli.files import strict_json
from alibi_cli.files.copying import append

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
LFS_POINTER = b"version "  # how the small text file begins that git leaves in place of a large one
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor's bytes lie in its file; begin and end count from the start of the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int  # bytes from the start of the file


@dataclass(frozen=True)
class NewTensor:
    """A tensor that no source file has."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file.

    Raises:
        AlibiError: the file cannot be read, is truncated, or its header does not describe its bytes.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if prefix == LFS_POINTER:
                raise AlibiError(f"{path} is a git-lfs pointer, not the file itself.", hint="Run `git lfs pull` there.")
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, "its header is longer than the file")
            raw = file.read(length)
    except OSError as error:
        raise AlibiError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        entries: dict[str, Any] = strict_json.loads(raw.decode("utf-8"))
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor_info(**entry) for name, entry in entries.items()}
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError
    except strict_json.DuplicateKey as error:
        raise _damaged(path, f"its header names {error.key!r} twice") from None
    except (ValueError, TypeError, AttributeError):
        raise _damaged(path, "its header is not a table of tensors") from None
    expected = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.dtype not in BITS:
            raise _damaged(path, f"tensor {name!r} has the unknown type {info.dtype!r}")
        if info.begin != expected or info.n_bytes * 8 != prod(info.shape) * BITS[info.dtype]:
            raise _damaged(path, f"the bytes of tensor {name!r} do not fit its shape or overlap another's")
        expected = info.end
    if 8 + length + expected != size:
        raise _damaged(path, f"it has {size} bytes where its header says {8 + length + expected}")
    return Header(tensors, metadata, 8 + length)


def _tensor_info(dtype: str, shape: list[int], data_offsets: list[int]) -> TensorInfo:
    """Raises ValueError or TypeError where a header says something else than it should."""
    begin, end = data_offsets
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError
    return TensorInfo(dtype, tuple(shape), begin, end)


def rewrite_file(
    source: Path,
    target: Path,
    keep: Iterable[str],
    on_bytes: Callable[[int], None],
    replaced: Mapping[str, bytes] | None = None,
    added: Mapping[str, NewTensor] | None = None,
) -> None:
    """Writes a safetensors file that holds only the tensors `keep` of `source`: header first, bytes streamed.

    replaced: {name: other bytes for a tensor of the same type and shape}. added: tensors that come after the others.
    """
    header = read_header(source)
    replaced, added = replaced or {}, added or {}
    kept = sorted((header.tensors[name].begin, name) for name in keep)
    entries: dict[str, Any] = {"__metadata__": {**header.metadata, "format": header.metadata.get("format", "pt")}}
    position = 0
    places = [(name, header.tensors[name].dtype, header.tensors[name].shape) for _, name in kept]
    places += [(name, tensor.dtype, tensor.shape) for name, tensor in added.items()]
    for name, dtype, shape in places:
        end = position + prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data section starts aligned, as the reference implementation writes it
    with explained(f"Cannot read {source}"):
        reader = source.open("rb")
    with reader, target.open("xb") as writer:
        writer.write(len(text).to_bytes(8, "little") + text)
        for begin, name in kept:
            if name in replaced:
                writer.write(replaced[name])
                on_bytes(len(replaced[name]))
            else:
                append(reader, writer, header.data_start + begin, header.tensors[name].n_bytes, on_bytes)
        for tensor in added.values():
            writer.write(tensor.content)
            on_bytes(len(tensor.content))


def _damaged(path: Path, why: str) -> AlibiError:
    return AlibiError(f"{path} is damaged: {why}.", hint="Download or copy the checkpoint again.")
