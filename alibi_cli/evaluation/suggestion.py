"""Which lengths to measure next: what a conversion proposes, so that this machine can run it in ten minutes."""

from collections.abc import Callable
from functools import cache

from pydantic import BaseModel

from alibi_cli.evaluation.estimate import QUICK, SHARE, WORTH_A_HINT
from alibi_cli.models.body_and_head import LOGITS_PER_CHUNK
from alibi_cli.models.cost import Cost
from alibi_cli.text.python_docs import held_out_sizes

SHORTEST = 64  # tokens; shorter windows show nothing
ENOUGH = 5  # segments of the longest length
TARGETS = 256  # tokens that are scored of a segment
BYTES_PER_TOKEN = 5  # of a vocabulary of words in documentation; fewer in most
BYTE_VOCABULARY = 300  # a smaller one has a token for each byte


class Suggestion(BaseModel):
    """lengths: doublings, in tokens. max_segments: null if the whole text can be scored. seconds: that scoring two models is estimated to
    take, and a window of the original. arms: of the original, beyond its trained length; empty where none but the default can be had."""

    lengths: list[int]
    max_segments: int | None
    seconds: float
    arms: list[str] = []


def suggest(
    cost: Cost, vocabulary: int, trained: int, declared: int, free_bytes: int | None, speed: Callable[[], float]
) -> Suggestion | None:
    """Lengths for a model and its original on the embedded text, from the trained one up to the declared one; shorter ones where these
    would take longer than ten minutes, more memory than is free, or longer documents than there are. None where nothing can be run.

    speed: operations per second; asked only if that matters.
    """
    bytes_per_token = 1 if vocabulary <= BYTE_VOCABULARY else BYTES_PER_TOKEN
    for lengths in _candidates(trained, declared):
        longest = lengths[-1]
        available = sum(size // (bytes_per_token * longest) for size in _sizes())
        rows = [*lengths, *lengths, *(length for length in lengths if length > trained)]  # two models and a window
        each = sum(cost.operations(length, min(TARGETS, length)) for length in rows)
        quick = each * available < QUICK
        allowed = available if quick else int(WORTH_A_HINT * SHARE * speed() / each)
        fits = free_bytes is None or cost.peak_bytes(longest, 1, LOGITS_PER_CHUNK) <= free_bytes
        segments = available if allowed >= available else _round(allowed)
        if fits and segments >= ENOUGH:
            seconds = 0.0 if quick else each * segments / (SHARE * speed())
            return Suggestion(
                lengths=lengths, max_segments=None if segments == available else segments, seconds=seconds
            )
    return None


def _candidates(trained: int, declared: int) -> list[list[int]]:
    """[[512, 1024, 2048], [512, 1024], [512], [128, 256], [64, 128]] of 512 trained and 2,048 declared tokens."""
    beyond = [trained]
    while beyond[-1] * 2 <= declared:
        beyond.append(beyond[-1] * 2)
    found = [beyond[:n] for n in range(len(beyond), 0, -1)]
    while trained // 4 >= SHORTEST:
        trained //= 2
        found.append([trained // 2, trained])
    return found


def _round(n: int) -> int:
    """961 -> 500: the next of 1, 2, 5, 10, … below, because the measured speed is no more precise."""
    return max((m * 10**k for k in range(9) for m in (1, 2, 5) if m * 10**k <= n), default=0)


@cache
def _sizes() -> tuple[int, ...]:
    """Bytes of the long documents of the embedded text."""
    return tuple(held_out_sizes())
