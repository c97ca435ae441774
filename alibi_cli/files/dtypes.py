"""Tensors in memory and in files: the names of types, and the way from one to the other."""

import torch

from alibi_cli.files.tensor_files import NewTensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}  # the names of pickled tensors
SAFETENSORS = {dtype: name for name, dtype in DTYPES.items() if name.isupper()}


def in_dtype(tensor: torch.Tensor, dtype: str) -> NewTensor:
    """The tensor as a file of that safetensors type (or torch name) holds it."""
    tensor = tensor.detach().to(DTYPES[dtype]).contiguous()
    content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return NewTensor(SAFETENSORS[tensor.dtype], tuple(tensor.shape), content)


def as_tensor(tensor: NewTensor) -> torch.Tensor:
    """The values that a file holds."""
    return torch.frombuffer(bytearray(tensor.content), dtype=DTYPES[tensor.dtype]).reshape(tensor.shape)
