"""The surgery on the meta device, which holds shapes and no numbers: which tensors a conversion keeps, drops and adds."""

import copy
import re
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation.arms import to_beat
from alibi_cli.files.dtypes import DTYPES
from alibi_cli.models.source import Source
from alibi_cli.runtime.alibi_policies import policy_registry
from alibi_cli.slopes import Slopes
from alibi_cli.surgery.apply import apply_alibi


class MetaSurgery:
    """The model on the meta device. before, after: {name: shape} of its tensors around the surgery. optional: names that a file may lack,
    because they are tied to others or computed again. model: converted, without numbers. to_beat: arms of the
    original that a conversion is compared with."""

    def __init__(self, cls: Any, config: Any, max_sequence_length: int, policy: str, slopes: Slopes, **settings: Any):
        """settings: sinks, offsets and position_vector of `apply_alibi`."""
        with torch.device("meta"):
            try:
                model = cls(copy.deepcopy(config))
            except (
                ArithmeticError,
                AttributeError,
                ImportError,
                LookupError,
                NotImplementedError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:  # whatever a wrong number or name in a config leads to
                raise AlibiError(
                    f"The config.json describes a model that cannot be built: {str(error).splitlines()[0]}"
                ) from None
        self.before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.optional = set(model.all_tied_weights_keys) | {name for name in self.before if "pooler." in name}
        self.optional |= {
            name
            for name in self.before
            for pattern in model._keys_to_ignore_on_load_missing or []
            if re.search(pattern, name)
        }
        rules = get_model_conversion_mapping(model)
        self.renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self.converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.prefix, self.state = model.base_model_prefix, model.state_dict()
        registry = policy_registry.named(policy)
        known = registry.loaded()
        matched = {cls for module in model.modules() for cls in known if isinstance(module, cls)}
        defined = {cls.__module__ for cls in (type(model), *matched)}
        self.sources = defined.union(*(registry.sources(cls) for cls in matched))
        self.to_beat = to_beat(model)
        try:
            apply_alibi(model, max_sequence_length, slopes=slopes, policy=policy, **settings)
        except ValueError as error:
            raise AlibiError(str(error)) from None
        self.after = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.model = model
        self.dropped = set(self.before) - set(self.after)
        self.rotary_scaling = model.config.alibi_rotary_scaling

    def name_of(self, name: str) -> tuple[str, bool]:
        """(the model's name for a file's tensor, whether the tensor keeps its shape), by the rules by which transformers loads files:
        old names, base-model files without the prefix of a head, experts that are stored one by one."""
        found, merged = rename_source_key(name, self.renamings, self.converters, self.prefix, self.state)
        return found, merged is None


def check_tensors(source: Source, meta: MetaSurgery) -> None:
    """
    Raises:
        UsageError: a tensor of the files has another type than weights have as they were trained.
        AlibiError: one has another shape than the config gives it, or one that the config asks for is missing.
    """
    found = set()
    for name, (shard, info) in source.tensors.items():
        key, keeps_shape = meta.name_of(name)
        if key in meta.state and meta.state[key].is_floating_point() and info.dtype not in DTYPES:
            raise UsageError(
                f"Tensor {name!r} of {source.name} is of type {info.dtype}: quantised weights are not converted.",
                "Dequantise them first, or take the original.",
            )
        if keeps_shape and key in meta.before and meta.before[key] != info.shape:
            raise AlibiError(
                f"Tensor {name!r} in {shard.name} has shape {list(info.shape)}; config.json asks for {list(meta.before[key])}."
            )
        found.add(key)
    if missing := sorted(set(meta.after) & set(meta.before) - meta.optional - found):
        raise AlibiError(
            f"{source.name} lacks {len(missing)} of the tensors that its config.json asks for, {missing[0]!r} among them."
        )
