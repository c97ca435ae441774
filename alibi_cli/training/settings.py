"""What a training run is asked to do and how its budget becomes steps.

A *block* is the unit of data: as many tokens as the longest sequence of the run. Every optimizer step takes the same number of blocks and
reshapes them to the length that the schedule has reached (`surgery/batch.py`), so lengths change and the tokens of a step do not.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alibi_cli.errors import AlibiError, UsageError

MOST_BATCH_TOKENS = (
    4096  # of a step, unless told otherwise; fewer if the budget would be spent in fewer than ENOUGH_STEPS
)
ENOUGH_STEPS = 400
# What may differ between a run and its continuation: everything else decides which tokens are seen, and in which order, or what is learned.
OPTIMIZER = ("learning_rate", "warmup", "max_gradient_norm")
MACHINE = ("dtype", "device", "batch_size", "save_every", "gradient_checkpointing", "fsdp", "deepspeed", "report_to")
FREE_ON_RESUME = {*OPTIMIZER, *MACHINE, "force", "resume", "command"}


@dataclass(frozen=True)
class TrainRequest:
    """What to train. The defaults are those of presets/heal.yaml, where their reasons are.

    checkpoint, teacher: folders or Hub names. text: files; dataset: what `alibi train --help` says. tokens or steps: the budget.
    batch_tokens: tokens of an optimizer step over all processes; 4096 if None, or so few that the tokens make 400 steps.
    length: tokens of a sequence, the trained length if None. length_schedule: ((length, share of the budget), …) instead of one.
    warmup: share of the steps. kd_weight: the loss is (1 - kd_weight) * cross-entropy + kd_weight * distillation; without teacher it is
    the cross-entropy. train_slopes: the slopes of a converted checkpoint are trained too.
    batch_size: sequences that one device takes at a time. save_every: steps between saved states.
    """

    checkpoint: str
    output: Path
    tokens: int | None = None
    steps: int | None = None
    text: tuple[Path, ...] = ()
    dataset: str | None = None
    split_on: str = "file"
    text_column: str = "text"
    batch_tokens: int | None = None
    length: int | None = None
    length_schedule: tuple[tuple[int, float], ...] | None = None
    train_sequence_length_scaling: float = 1.0
    teacher: str | None = None
    kd_weight: float = 0.9
    temperature: float = 1.0
    hidden_weight: float = 0.0
    train_slopes: bool = False
    learning_rate: float = 1e-3
    warmup: float = 0.1
    decay: str = "cosine"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    gradient_checkpointing: bool = False
    fsdp: str | None = None
    deepspeed: Path | None = None
    report_to: tuple[str, ...] = ()
    save_every: int = 100
    resume: bool = False
    force: bool = False
    revision: str | None = None
    trust_remote_code: bool = False
    command: str = ""

    def check(self) -> None:
        """Raises AlibiError for numbers that make no sense, whatever the model."""
        if (self.tokens is None) == (self.steps is None):
            raise UsageError("Give the budget as `tokens` or as `steps`.")
        if self.length is not None and self.length_schedule is not None:
            raise UsageError("Give `length` or `length_schedule`, not both.")
        positive = ("tokens", "steps", "batch_tokens", "length", "batch_size", "save_every")
        for name in (*positive, "learning_rate", "temperature", "max_gradient_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise _bad(name, value, "positive")
        for name in ("weight_decay", "hidden_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise _bad(name, getattr(self, name), "zero or more")
        for name in ("kd_weight", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise _bad(name, getattr(self, name), "between 0 and 1")
        if not 0 < self.train_sequence_length_scaling <= 1:
            raise _bad("train_sequence_length_scaling", self.train_sequence_length_scaling, "above 0 and at most 1")
        if self.hidden_weight and self.teacher is None:
            raise UsageError("`hidden_weight` needs a `teacher`.")

    def fixed(self) -> dict[str, Any]:
        """The settings that a continuation must share, as JSON."""
        kept = {name: value for name, value in asdict(self).items() if name not in FREE_ON_RESUME}
        return {name: _plain(value) for name, value in kept.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _bad(name: str, value: Any, must: str) -> AlibiError:
    return UsageError(f"`{name}` must be {must}; it is {value}.")


class Stage(BaseModel):
    """So many optimizer steps with sequences of `length` tokens."""

    length: int
    steps: int


@dataclass(frozen=True)
class Budget:
    """block: tokens of a block. blocks_per_step: over all processes. stages: in order."""

    block: int
    blocks_per_step: int
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def batch_tokens(self) -> int:
        return self.block * self.blocks_per_step

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    def length_of(self, block: int) -> int:
        """The sequence length at which a block is trained: blocks are numbered through all steps."""
        step = block // self.blocks_per_step
        for stage in self.stages:
            if step < stage.steps:
                return stage.length
            step -= stage.steps
        return self.stages[-1].length


def make_budget(request: TrainRequest, trained_length: int | None) -> Budget:
    """Turns lengths and tokens into steps.

    Raises:
        AlibiError: no length is known, or lengths that do not divide the block, or a step that is not whole blocks.
    """
    schedule = request.length_schedule
    if schedule is None:
        length = request.length or trained_length
        if length is None:
            raise UsageError(
                f"{request.checkpoint} does not say at which length it was trained.",
                hint="Give `length`.",
            )
        schedule = ((length, 1.0),)
    if not all(length >= 2 and share > 0 for length, share in schedule):
        raise UsageError("Lengths are whole numbers from 2 on and their shares positive.")
    if abs(sum(share for _, share in schedule) - 1) > 1e-6:
        raise UsageError("The shares of a `length_schedule` must add up to 1.")
    block = max(length for length, _ in schedule)
    lengths = [_scaled(length, request.train_sequence_length_scaling, block) for length, _ in schedule]
    wanted = MOST_BATCH_TOKENS if request.tokens is None else min(MOST_BATCH_TOKENS, request.tokens // ENOUGH_STEPS)
    batch_tokens = request.batch_tokens or max(wanted // block, 1) * block
    if batch_tokens % block:
        below = batch_tokens // block * block
        raise UsageError(
            f"`batch_tokens={batch_tokens}` is not a multiple of the longest length, {block}.",
            hint=f"Take {below or block}{f' or {below + block}' if below else ''}.",
        )
    steps = request.steps or math.ceil((request.tokens or 0) / batch_tokens)
    ends = [0, *(round(steps * sum(share for _, share in schedule[: i + 1])) for i in range(len(schedule)))]
    stages = [Stage(length=length, steps=ends[i + 1] - ends[i]) for i, length in enumerate(lengths)]
    return Budget(block, batch_tokens // block, tuple(stage for stage in stages if stage.steps))


def _scaled(length: int, scaling: float, block: int) -> int:
    scaled = round(length * scaling)
    if scaled < 2 or abs(length * scaling - scaled) > 1e-6 * length or block % scaled:
        raise UsageError(
            f"A length of {length}{f' scaled by {scaling:g}' if scaling != 1 else ''} does not divide the longest length, {block}.",
            hint="Choose lengths that do, such as powers of two.",
        )
    return scaled
