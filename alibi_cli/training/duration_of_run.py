"""What a training run is going to take, said before it begins."""

import torch

from alibi_cli.models.cost import cost_of
from alibi_cli.models.loading import device_type
from alibi_cli.models.pace import announce
from alibi_cli.progress import Say
from alibi_cli.settings.healing import DEVICE_TOKENS
from alibi_cli.training.job import Job

BACKWARD = 2  # forward passes that a backward pass takes


def operations_of(job: Job) -> float:
    """Multiplications and additions of all steps, student and teacher."""
    settings, budget = job.settings, job.budget
    cost, teacher = (None if info is None else cost_of(info, "cpu", "float32") for info in (job.info, job.teacher))
    passes = 1 + BACKWARD + (1 if settings.gradient_checkpointing else 0)
    total = 0.0
    for stage in budget.stages:
        sequences = stage.steps * budget.batch_tokens / stage.length
        if cost is not None:
            total += passes * sequences * cost.operations(stage.length, stage.length)
        if teacher is not None:
            fed = min(stage.length, job.teacher_length or stage.length)
            windows = 1 + -(-(stage.length - fed) // max(1, fed // 2))  # see training/teacher.py
            total += sequences * windows * teacher.operations(fed, fed)
    return total


def announce_run(job: Job, done: int, processes: int, say: Say) -> None:
    """done: steps that an earlier run has taken."""
    settings, device = job.settings, device_type(job.settings.device)
    left = 1 - done / max(1, job.budget.steps)
    tokens = min(job.budget.batch_tokens // processes, DEVICE_TOKENS)
    cost = cost_of(job.info, settings.device, settings.dtype)
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    hint = f"Fewer `{'steps' if settings.tokens is None else 'tokens'}` take less; an interrupted run can be continued with `resume`."
    announce(left * operations_of(job) / processes, tokens, cost, device, dtype, say, hint)
