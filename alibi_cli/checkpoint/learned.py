"""What a conversion writes beside the source's own tensors: slopes and tensors that calibration found."""

from dataclasses import dataclass, field
from typing import Any

import torch

from alibi_cli.checkpoint.safetensors_io import NewTensor
from alibi_cli.slopes import Slopes

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}  # the names of pickled tensors
SAFETENSORS = {dtype: name for name, dtype in DTYPES.items() if name.isupper()}


@dataclass(frozen=True)
class Learned:
    """slopes, offsets, sinks: see `apply_alibi`; sinks None: not known yet, in a plan that is only looked at.

    added: position vectors; changed: normalisation weights; both {the converted model's name: tensor}, without numbers (on the meta
    device) in a plan that is only looked at. record: how they came about, for alibi.json."""

    scheme: str
    slopes: Slopes
    offsets: Slopes | None = None
    sinks: int | None = 0
    added: dict[str, torch.Tensor] = field(default_factory=dict)
    changed: dict[str, torch.Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def in_dtype(tensor: torch.Tensor, dtype: str) -> NewTensor:
    """The tensor as a file of that safetensors type (or torch name) holds it."""
    tensor = tensor.detach().to(DTYPES[dtype]).contiguous()
    content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return NewTensor(SAFETENSORS[tensor.dtype], tuple(tensor.shape), content)


def as_tensor(tensor: NewTensor) -> torch.Tensor:
    """The values that a file holds."""
    return torch.frombuffer(bytearray(tensor.content), dtype=DTYPES[tensor.dtype]).reshape(tensor.shape)
