"""How much text a calibration feeds, in windows of which lengths."""

import math

from alibi_cli.errors import UsageError
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.conversion import ADDED_TOKENS, DISTIL_LENGTH, REACH_LENGTH, TOKENS, CalibrateSettings

HELD_OUT_TOKENS = 1 << 13  # to choose by, and as many to report on
REACH_SHARE = 16  # one in so many of a distillation's tokens goes to reach, which comes first


def tokens_of(settings: CalibrateSettings) -> int:
    """Tokens to learn from."""
    if settings.calibration_tokens is not None:
        return settings.calibration_tokens
    added = settings.policy != DEFAULT_POLICY and settings.method == "distil"
    return ADDED_TOKENS if added else TOKENS[settings.method]


def range_of(settings: CalibrateSettings, trained_length: int) -> int:
    """Tokens within which an added bias is to change nothing: the trained length, or the horizon.

    Raises:
        UsageError: a horizon beyond the trained length, or an offset beyond the range.
    """
    if settings.horizon is not None and settings.horizon > trained_length:
        raise UsageError(f"The `horizon` of {settings.horizon} tokens is beyond the trained length, {trained_length}.")
    reach = settings.horizon or trained_length
    if settings.offset is not None and settings.offset > reach:
        raise UsageError(f"An `offset` of {settings.offset} tokens leaves what lies beyond {reach} without a bias.")
    return reach


def lengths_of(settings: CalibrateSettings, trained_length: int) -> tuple[int, ...]:
    """Lengths of the windows that are fed, ascending: of the range, its doublings and the longest for the distillation of an added
    bias; one length for others.

    Raises:
        UsageError: the longest does not reach beyond the range of an added bias, or beyond the trained length where positions are
            replaced.
    """
    reach, length = range_of(settings, trained_length), settings.calibration_length
    if settings.policy == DEFAULT_POLICY:
        if length is not None and length > reach:
            raise UsageError(f"Windows of {length} tokens are longer than the original was trained for, {reach}.")
        return (length or reach,)
    only_reach = settings.method == "reach"
    longest = length or int((REACH_LENGTH if only_reach else DISTIL_LENGTH) * reach)
    if longest <= reach:
        raise UsageError(
            f"Windows of {longest} tokens do not reach beyond {reach}, where an added bias has its work to do.",
            "Take a longer `calibration_length` or a shorter `horizon`.",
        )
    if only_reach:
        return (longest,)
    doublings = math.ceil(math.log2(longest / reach))
    return (*(reach << n for n in range(doublings)), longest)
