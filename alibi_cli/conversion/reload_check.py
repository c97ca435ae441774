"""Does the checkpoint on disk compute what the surgery in memory computes?"""

import atexit
import copy
import gc
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import set_module_tensor_to_device
from transformers import PreTrainedModel, dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from alibi_cli.conversion.plan import Plan
from alibi_cli.conversion.sampled import check_copied, load_layers, outputs_of_layers
from alibi_cli.conversion.verified import Verification
from alibi_cli.errors import AlibiError
from alibi_cli.files.dtypes import as_tensor
from alibi_cli.surgery.apply import apply_alibi

TOLERANCE = 1e-5
BATCH, TOKENS = 2, 64
WHOLE_BYTES = 64 << 20  # checkpoints up to this size are loaded whole
Load = Callable[..., PreTrainedModel]  # (class, folder, **options) -> model
HINT = "Nothing was written under the final name. Please report this with the model's name."


def check_reload(plan: Plan, folder: Path) -> Verification:
    """Reloads `folder` through the files it carries, as a stranger would, and compares what it computes with the surgery in memory.

    Small models are compared whole, in float32 and by their logits; large ones by the bytes of rewritten files and the hidden states of
    some layers, in their own type. One model is in memory at a time. The sample is longer than 64 tokens where the source's own limit is
    small, so that a limit that survived the conversion shows.

    Raises:
        AlibiError: they differ, or nothing can be compared.
    """
    length = TOKENS if plan.trained_length > 8 * TOKENS else plan.trained_length + 8
    if hasattr(plan.source.config, "max_seq_len"):  # MPT, whose own bias is as long as is declared
        length = min(length, plan.max_sequence_length)
    if plan.source.weight_bytes > WHOLE_BYTES and plan.loads_lazily:
        return _verify_sampled(plan, folder, length)
    tokens = torch.randint(plan.source.config.vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0))
    source = _surgery_in_memory(plan)
    expected, expected_head = outputs(source, tokens)
    del source
    gc.collect()
    reloaded = reload(folder, plan.architecture)
    _check_config(plan, reloaded.config)
    found, found_head = outputs(reloaded, tokens)
    difference = _difference(plan, expected, found)
    if expected_head.keys() != found_head.keys() or not all(
        torch.equal(expected_head[name], found_head[name]) for name in expected_head
    ):
        raise AlibiError(
            "Verification failed: the weights of the head above the model are not those of the source.", HINT
        )
    return Verification(
        max_abs_logit_difference=difference, tolerance=TOLERANCE, tokens=tokens.numel(), layers=None, passed=True
    )


def _verify_sampled(plan: Plan, folder: Path, length: int) -> Verification:
    check_copied(plan, folder)
    source = _surgery_in_memory(plan, load_layers)
    expected, layers = outputs_of_layers(source, 1, length)
    del source
    gc.collect()
    reloaded = reload(folder, plan.architecture, load_layers)
    _check_config(plan, reloaded.config)
    found, _ = outputs_of_layers(reloaded, 1, length)
    return Verification(
        max_abs_logit_difference=_difference(plan, expected, found),
        tolerance=TOLERANCE,
        tokens=length,
        layers=layers,
        passed=True,
    )


def _check_config(plan: Plan, config: Any) -> None:
    """What the sample does not show: slopes of layers that take no part, and a distance of sinks that is beyond its length.

    Raises:
        AlibiError: the config does not hold the plan's slopes, offsets and sinks.
    """
    written = config.alibi_slopes, config.alibi_offsets, config.alibi_sinks or 0, config.alibi_sink_distance
    if written != (plan.slopes, plan.offsets, plan.sinks or 0, plan.sink_distance):
        raise AlibiError("Verification failed: config.json does not hold the slopes and sinks of the plan.", HINT)


def _load_whole(cls: type[PreTrainedModel], folder: Path, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel = cls.from_pretrained(folder, dtype=torch.float32, **options)
    return model


def _surgery_in_memory(plan: Plan, load: Load = _load_whole) -> PreTrainedModel:
    config = copy.deepcopy(plan.source.config)  # the surgery changes it
    model = load(plan.source.model_class, plan.source.folder, config=config)
    changed, added = plan.learned_tensors()
    apply_alibi(model, plan.max_sequence_length, **plan.settings)
    for name, tensor in {**{plan.changed[name]: changed[name] for name in changed}, **added}.items():
        module: Any = model.get_submodule(name.rpartition(".")[0])
        if hasattr(module, "_hf_hook"):  # it comes from the disk whenever it is used; it is to stay in memory
            module._hf_hook.pre_forward(module)
            remove_hook_from_module(module)
        set_module_tensor_to_device(model, name, "cpu", as_tensor(tensor))
    return model


def _difference(plan: Plan, expected: torch.Tensor, found: torch.Tensor) -> float:
    """
    Raises:
        AlibiError: they differ by more than the tolerance, or there is nothing to compare.
    """
    numbers = expected.isfinite()
    if not numbers.any():
        raise AlibiError(
            f"Every output of {plan.source.name} is NaN or Inf, so nothing can be verified.",
            hint="`verify=False` writes it all the same.",
        )
    # Where the source has no number, the checkpoint must have none either.
    difference = (found - expected)[numbers].abs().max().item() if torch.equal(numbers, found.isfinite()) else math.inf
    if not difference <= TOLERANCE:
        raise AlibiError(
            f"Verification failed: reloaded logits differ by {difference:.1e}, and at most {TOLERANCE:.0e} is allowed.",
            HINT,
        )
    return difference


def reload(folder: Path, architecture: str, load: Load = _load_whole) -> PreTrainedModel:
    """A converted checkpoint, by the runtime files in its folder, which must be ours. Not by way of an Auto class, which with
    trust_remote_code runs the custom_generate/generate.py of the source too."""
    _place_for_modules()
    cls = get_class_from_dynamic_module(f"modeling_alibi.{architecture}", folder)
    return load(cls, folder)


@cache
def _place_for_modules() -> None:
    """transformers copies a checkpoint's code to its cache before it runs it. Where HOME or HF_HOME cannot be written, as on the nodes of
    many clusters, a folder of this process does instead."""
    try:
        Path(dynamic_module_utils.HF_MODULES_CACHE).mkdir(parents=True, exist_ok=True)
        usable = os.access(dynamic_module_utils.HF_MODULES_CACHE, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        folder = tempfile.mkdtemp(prefix="alibi-modules-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        dynamic_module_utils.HF_MODULES_CACHE = folder


@torch.no_grad()
def outputs(model: PreTrainedModel, tokens: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of a language model. Other heads want inputs of their own kinds: of these, the hidden states below the head, and its
    weights, which must not have changed."""
    model.eval()
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    if model.get_output_embeddings() is not None:
        return model(**inputs, return_dict=True).logits, {}
    head = {
        name: p.clone() for name, p in model.named_parameters() if not name.startswith(model.base_model_prefix + ".")
    }
    return model.base_model(**inputs, return_dict=True)[0], head if model.base_model is not model else {}
