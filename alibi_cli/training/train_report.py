"""What a training run reports, on the screen and in the checkpoint."""

import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from alibi_cli.conversion.verified import Verification
from alibi_cli.files.versions import versions
from alibi_cli.training.budget import Budget, Stage

if TYPE_CHECKING:
    from alibi_cli.training.data import Tokens
    from alibi_cli.training.job import Job
    from alibi_cli.training.trainer import HealingTrainer

RECORDED_LOSSES = 200
RECORD = "alibi-training.json"  # of a model that is not converted; a converted one has its record in alibi.json


class Loss(BaseModel):
    """Means over the steps up to `step` since the entry before, in nats per target; kd before the temperature's square, null without
    teacher. `loss` is what was minimised."""

    step: int
    tokens: int
    loss: float
    ce: float
    kd: float | None = None
    hidden: float | None = None


class TrainReport(BaseModel):
    """The JSON of `alibi train`, kept in the checkpoint too. tokens: that were fed, those of repeated epochs included. teacher_length: how
    many tokens the teacher was fed of longer sequences, see `Teacher`; null if all. request: a digest of what was asked for, by which a
    finished run is known; null before 0.2.0."""

    output: str
    source: str
    source_digest: str
    converted: bool
    model_type: str
    tokens: int
    steps: int
    batch_tokens: int
    lengths: list[Stage]
    passes: float
    packed: bool
    seconds: float
    tokens_per_second: float
    processes: int
    seed: int
    dtype: str
    learning_rate: float
    warmup_steps: int
    decay: str
    weight_decay: float
    max_gradient_norm: float
    teacher: str | None
    teacher_digest: str | None
    teacher_length: int | None
    kd_weight: float | None
    temperature: float | None
    hidden_weight: float | None
    train_slopes: bool
    text: dict[str, Any]
    request: str | None = None
    resumed_at: list[int]
    losses: list[Loss]
    verified: Verification
    sha256: dict[str, str]
    versions: dict[str, str]
    loads_with: str
    command: str


def make_report(
    job: "Job",
    trainer: "HealingTrainer",
    tokens: "Tokens",
    seconds: float,
    resumed_at: list[int],
    digests: dict[str, str],
    verified: Verification,
) -> TrainReport:
    settings, info, budget = job.settings, job.info, job.budget
    taught = job.teacher is not None
    data: Any = trainer.train_dataset
    collator: Any = trainer.data_collator
    return TrainReport(
        output=str(settings.output),
        source=settings.checkpoint,
        source_digest=info.digest,
        converted=info.converted,
        model_type=info.model_type,
        tokens=budget.tokens,
        steps=budget.steps,
        batch_tokens=budget.batch_tokens,
        lengths=list(budget.stages),
        passes=data.passes,
        packed=collator.packed,
        seconds=seconds,
        tokens_per_second=budget.tokens / seconds,
        processes=trainer.args.world_size,
        seed=settings.seed,
        dtype=settings.dtype,
        learning_rate=settings.learning_rate,
        warmup_steps=job.warmup_steps,
        decay=settings.decay,
        weight_decay=settings.weight_decay,
        max_gradient_norm=settings.max_gradient_norm,
        teacher=settings.teacher,
        teacher_digest=job.teacher.digest if job.teacher is not None else None,
        teacher_length=job.teacher_length,
        kd_weight=settings.kd_weight if taught else None,
        temperature=settings.temperature if taught else None,
        hidden_weight=settings.hidden_weight if taught else None,
        train_slopes=settings.train_slopes,
        text=tokens.fingerprint,
        request=job.request(trainer.args.world_size),
        resumed_at=resumed_at,
        losses=_losses(trainer.state.log_history, budget),
        verified=verified,
        sha256=digests,
        versions={**versions("safetensors"), "accelerate": version("accelerate")},
        loads_with=loads_with(job),
        command=settings.command or shlex.join(["alibi", "train", settings.checkpoint, "-o", str(settings.output)]),
    )


def loads_with(job: "Job") -> str:
    auto = "AutoModelForMaskedLM" if job.info.masked else "AutoModelForCausalLM"
    remote = ", trust_remote_code=True" if job.info.converted else ""
    return f'{auto}.from_pretrained("{job.settings.output}"{remote})'


def _losses(history: list[dict[str, float]], budget: Budget) -> list[Loss]:
    """The logged losses, as means over at most RECORDED_LOSSES stretches of steps."""
    rows = [row for row in history if "loss" in row]
    stretch = -(-len(rows) // RECORDED_LOSSES)
    found = []
    for begin in range(0, len(rows), stretch):
        part = rows[begin : begin + stretch]
        means = {
            name: sum(row[name] for row in part) / len(part)
            for name in ("loss", "ce", "kd", "hidden")
            if name in part[0]
        }
        step = int(part[-1]["step"])
        found.append(Loss(step=step, tokens=step * budget.batch_tokens, **means))
    return found
