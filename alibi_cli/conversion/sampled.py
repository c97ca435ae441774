"""Large checkpoints are verified without loading them: the bytes of the tensors that were kept, and what some of the layers compute.

Weights stay on the disk (transformers' device_map="disk") and pass through memory one module at a time; those of the
other layers are left alone.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from alibi_cli.conversion.plan import Plan
from alibi_cli.errors import AlibiError, explained
from alibi_cli.files.copying import BUFFER_BYTES
from alibi_cli.files.tensor_files import read_header

LAYERS = 3  # of each stack: the first, the middle, the last


def check_copied(plan: Plan, folder: Path) -> None:
    """Compares every tensor that a rewritten file kept with its source, byte by byte. Files that were copied whole were compared then.

    Raises:
        AlibiError: one of them differs, or is not where the index of `folder` says.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rewritten = set(plan.kept_by_shard) - set(plan.untouched)
        list(pool.map(lambda shard: _check_shard(plan, shard, folder / shard.name), rewritten))


def _check_shard(plan: Plan, shard: Path, written: Path) -> None:
    names = [name for name in plan.kept_by_shard[shard] if name not in plan.changed]
    before, after = read_header(shard), read_header(written)
    # Refilled again and again. What a short piece leaves at their ends has been compared before.
    left, right = bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)
    with explained(f"Cannot read {shard}"), shard.open("rb", 0) as original, written.open("rb", 0) as copy:
        for name in names:
            old, new = before.tensors[name], after.tensors.get(name)
            same = new is not None and (old.dtype, old.shape) == (new.dtype, new.shape)
            if new is None or not same:
                raise AlibiError(f"Verification failed: {written.name} does not hold {name!r} as {shard} does.")
            original.seek(before.data_start + old.begin)
            copy.seek(after.data_start + new.begin)
            for begin in range(0, old.n_bytes, BUFFER_BYTES):
                n = min(BUFFER_BYTES, old.n_bytes - begin)
                if original.readinto(memoryview(left)[:n]) != copy.readinto(memoryview(right)[:n]) or left != right:
                    raise AlibiError(f"Verification failed: {name!r} in {written.name} is not what {shard} holds.")


def load_layers(cls: type[PreTrainedModel], folder: Path, **options: Any) -> PreTrainedModel:
    """`cls.from_pretrained(folder, **options)` with weights that come from the disk whenever they are used. Layers that `outputs_of_layers`
    leaves out stay on the meta device: transformers does not see them until it has finished.

    It would touch the first byte of every tensor, and the kernel map up to 2 MB around each: of a large model, gigabytes.
    """
    waiting: list[tuple[nn.ModuleList, int, nn.Module]] = []

    class Partial(cls):  # type: ignore[valid-type, misc]
        __module__ = cls.__module__
        _keys_to_ignore_on_load_unexpected = ("",)  # any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for _, _, stack in _stacks(self.base_model):
                for index in set(range(len(stack))) - set(_chosen(stack)):
                    waiting.append((stack, index, stack[index]))
                    stack[index] = nn.Identity()

    Partial.__name__ = cls.__name__  # by which transformers finds rules for renaming
    model: PreTrainedModel = Partial.from_pretrained(folder, dtype="auto", device_map={"": "disk"}, **options)
    model.__class__ = cls
    for stack, index, layer in waiting:
        stack[index] = layer
    return model


@torch.no_grad()
def outputs_of_layers(model: PreTrainedModel, rows: int, length: int) -> tuple[torch.Tensor, list[int]]:
    """Hidden states (rows, length, width) of some of the layers, one after the other, on random embeddings, and which layers these are.

    The other layers are taken out of the model. Embeddings and head do not take part: they are copied, and compared as bytes.
    """
    body = model.base_model
    sampled: list[int] = []
    for parent, name, stack in _stacks(body):
        setattr(parent, name, nn.ModuleList(stack[index] for index in _chosen(stack)))
        sampled = sorted({*sampled, *_chosen(stack)})
    model.config.use_cache = False  # caches count layers
    embedding: Any = model.get_input_embeddings()
    width = embedding.weight.shape[1]
    states = torch.randn(rows, length, width, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    inputs = {"inputs_embeds": states}
    if model.config.is_encoder_decoder:
        inputs["decoder_inputs_embeds"] = states
    return body.eval()(**inputs, return_dict=True)[0], sampled


def _chosen(stack: nn.ModuleList) -> list[int]:
    return sorted({round(place * (len(stack) - 1) / (LAYERS - 1)) for place in range(LAYERS)})


def _stacks(module: nn.Module) -> list[tuple[nn.Module, str, nn.ModuleList]]:
    """(parent, its attribute, list) of the outermost lists of modules."""
    found: list[tuple[nn.Module, str, nn.ModuleList]] = []
    for name, child in module.named_children():
        found += [(module, name, child)] if isinstance(child, nn.ModuleList) else _stacks(child)
    return found
