"""Does the checkpoint on disk compute what the surgery in memory computes?"""

import gc
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from alibi_cli.checkpoint.plan import Plan
from alibi_cli.checkpoint.report import Verification
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

    source = model_class(config).from_pretrained(plan.source.folder, dtype=torch.float32)
    apply_alibi(source, plan.max_sequence_length, slopes=plan.slopes)
    expected = logits(source, tokens)
    del source
    gc.collect()

    auto = getattr(transformers, plan.auto_class)
    reloaded = auto.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    difference = (logits(reloaded, tokens) - expected).abs().max().item()
    return Verification(
        max_abs_logit_difference=difference, tolerance=TOLERANCE, tokens=tokens.numel(), passed=difference <= TOLERANCE
    )


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """The first output of a model in evaluation mode: logits of a model with a head, hidden states of one without."""
    return model.eval()(input_ids=tokens, return_dict=True)[0]
