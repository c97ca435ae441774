"""Does the checkpoint on disk compute what the surgery in memory computes?"""

import gc
import math
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from alibi_cli.checkpoint.learned import as_tensor
from alibi_cli.checkpoint.plan import Plan
from alibi_cli.checkpoint.report import Verification
from alibi_cli.errors import AlibiError
from alibi_cli.families import config_of, model_class
from alibi_cli.surgery.apply import apply_alibi

TOLERANCE = 1e-5
BATCH, TOKENS = 2, 64


def verify(plan: Plan, folder: Path) -> Verification:
    """Reloads `folder` through the files it carries, as a stranger would, and compares logits in float32 on sample tokens.

    One model is in memory at a time. The sample is longer than 64 tokens where the source's own limit is small, so that a
    limit that survived the conversion shows.
    """
    config = config_of(plan.source.config, plan.source.name)
    length = TOKENS if plan.trained_length > 8 * TOKENS else plan.trained_length + 8
    tokens = torch.randint(config.vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0))

    source = model_class(config).from_pretrained(plan.source.folder, config=config, dtype=torch.float32)
    changed, added = plan.learned_tensors()
    apply_alibi(source, plan.max_sequence_length, slopes=plan.slopes, position_vector=bool(added))
    for name, tensor in {**{plan.changed[name]: changed[name] for name in changed}, **added}.items():
        source.get_parameter(name).data.copy_(as_tensor(tensor))
    expected, expected_head = outputs(source, tokens)
    del source
    gc.collect()

    reloaded = reload(folder, plan.architecture)
    found, found_head = outputs(reloaded, tokens)
    numbers = expected.isfinite()
    if not numbers.any():
        raise AlibiError(
            f"Every logit of {plan.source.name} is NaN or Inf, so nothing can be verified.",
            hint="--no-verify writes it all the same.",
        )
    # Where the source has no number, the checkpoint must have none either.
    difference = (found - expected)[numbers].abs().max().item() if torch.equal(numbers, found.isfinite()) else math.inf
    same_head = expected_head.keys() == found_head.keys() and all(
        torch.equal(expected_head[name], found_head[name]) for name in expected_head
    )
    return Verification(
        max_abs_logit_difference=difference,
        tolerance=TOLERANCE,
        tokens=tokens.numel(),
        passed=difference <= TOLERANCE and same_head,
    )


def reload(folder: Path, architecture: str) -> PreTrainedModel:
    """A converted checkpoint in float32, by the runtime files in its folder, which must be ours. Not by way of an Auto class, which with
    trust_remote_code runs the custom_generate/generate.py of the source too."""
    cls = get_class_from_dynamic_module(f"modeling_alibi.{architecture}", folder)
    return cls.from_pretrained(folder, dtype=torch.float32)


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
