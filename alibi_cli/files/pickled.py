"""Pickled .bin weights, read with weights_only=True and written as safetensors."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from alibi_cli.errors import AlibiError
from alibi_cli.files.tensor_files import LFS_POINTER, NewTensor, TensorInfo

if TYPE_CHECKING:
    import torch


def index_of(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes of a pickled shard; its weights are mapped, not read."""
    tensors = load_pickled(path)
    return {
        name: TensorInfo(str(t.dtype).removeprefix("torch."), tuple(t.shape), 0, t.nbytes)
        for name, t in tensors.items()
    }


def rewrite_pickled(
    shard: Path,
    target: Path,
    keep: list[str],
    mode_of: Path,
    on_bytes: Callable[[int], None],
    replaced: Mapping[str, NewTensor],
    added: Mapping[str, NewTensor],
) -> None:
    """Writes the tensors `keep` of a pickled shard as safetensors, some `replaced` and others `added`.

    Tensors that share memory (tied weights) are written once for each name, because safetensors has no aliases. The file gets the mode
    of `mode_of`: safetensors creates files that only their owner can read.
    """
    import torch
    from safetensors.torch import save_file

    from alibi_cli.files.dtypes import as_tensor

    tensors = load_pickled(shard)
    kept = {name: tensors[name].clone(memory_format=torch.contiguous_format) for name in keep}
    save_file(
        {**kept, **{name: as_tensor(tensor) for name, tensor in {**replaced, **added}.items()}},
        target,
        metadata={"format": "pt"},
    )
    shutil.copymode(mode_of, target)
    on_bytes(target.stat().st_size)


def load_pickled(path: Path) -> "dict[str, torch.Tensor]":
    """A pickled state dict; no code in the pickle is run.

    Raises:
        AlibiError: the file holds anything but tensors, or is damaged.
    """
    import torch

    with path.open("rb") as file:
        if file.read(8) == LFS_POINTER:
            raise AlibiError(f"{path} is a git-lfs pointer, not the file itself.", hint="Run `git lfs pull` there.")
    try:
        zipped = _is_zip(path)  # older files cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError:
        raise AlibiError(
            f"{path} holds Python objects other than tensors; it was not read, because loading it could run code."
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise AlibiError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise AlibiError(f"{path} does not hold a table of tensors.")
    return tensors


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
