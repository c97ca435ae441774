"""How the budget of a training run becomes steps.

A *block* is the unit of data: as many tokens as the longest sequence of the run. Every optimizer step takes the same number of blocks and
reshapes them to the length that the schedule has reached (`training/lengths.py`), so lengths change and the tokens of a step do not.
"""

import math
from dataclasses import dataclass

from pydantic import BaseModel

from alibi_cli.errors import UsageError
from alibi_cli.settings.healing import ENOUGH_STEPS, MOST_BATCH_TOKENS, TrainSettings


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


def make_budget(settings: TrainSettings, trained_length: int | None) -> Budget:
    """Turns lengths and tokens into steps.

    Raises:
        AlibiError: no length is known, or lengths that do not divide the block, or a step that is not whole blocks.
    """
    schedule = settings.length_schedule
    if schedule is None:
        length = settings.length or trained_length
        if length is None:
            raise UsageError(
                f"{settings.checkpoint} does not say at which length it was trained.",
                hint="Give `length`.",
            )
        schedule = ((length, 1.0),)
    if not all(length >= 2 and share > 0 for length, share in schedule):
        raise UsageError("Lengths are whole numbers from 2 on and their shares positive.")
    if abs(sum(share for _, share in schedule) - 1) > 1e-6:
        raise UsageError("The shares of a `length_schedule` must add up to 1.")
    block = max(length for length, _ in schedule)
    lengths = [_scaled(length, settings.train_sequence_length_scaling, block) for length, _ in schedule]
    wanted = MOST_BATCH_TOKENS if settings.tokens is None else min(MOST_BATCH_TOKENS, settings.tokens // ENOUGH_STEPS)
    batch_tokens = settings.batch_tokens or max(wanted // block, 1) * block
    if batch_tokens % block:
        below = batch_tokens // block * block
        raise UsageError(
            f"`batch_tokens={batch_tokens}` is not a multiple of the longest length, {block}.",
            hint=f"Take {below or block}{f' or {below + block}' if below else ''}.",
        )
    steps = settings.steps or math.ceil((settings.tokens or 0) / batch_tokens)
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
