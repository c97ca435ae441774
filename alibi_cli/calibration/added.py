"""Calibration where the rotation is kept: a bias that hides what lies beyond the range and changes nothing within it.

The range is the trained length, or a horizon that is asked for. Within it the original is the teacher; beyond it, the original that is fed
its last range of tokens (the truncated teacher), because the original itself breaks there.
"""

import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.distil import Curve, distil
from alibi_cli.calibration.divergence import TOKENS_PER_BATCH, Divergence
from alibi_cli.calibration.extrapolation import Beyond
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.reach import EPSILON, fit_reach
from alibi_cli.calibration.sinks import choose_sinks
from alibi_cli.calibration.smallest_slopes import gentlest_slope
from alibi_cli.calibration.sparkline import Sparkline
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.calibration.windows import CalibrationWindows, Parts
from alibi_cli.models.families import sink_distance
from alibi_cli.progress import Update


@dataclass(frozen=True)
class Added:
    """slopes, offsets: a row for each attention module. kl: nats per token on text that nothing was learned from or chosen by, {"start":
    after reach, "end": after distillation}, each {length: figure}; none after reach alone."""

    slopes: list[list[float]]
    offsets: list[list[float]] | None
    sinks: int
    kl: dict[str, dict[int, float]]
    curve: Curve | None
    seconds: float


def calibrate_added(
    model: PreTrainedModel,
    windows: CalibrationWindows,
    reach: int,
    policy: str = "add",
    sinks: int | None = None,
    offset: int | None = None,
    epsilon: float = EPSILON,
    update: Update = lambda *_: None,
    state: State = NOWHERE,
    beyond: Beyond | None = None,
) -> Added:
    """Slopes by reach, in one forward pass over `windows`, which must be longer than `reach` tokens; `model` is not changed.

    sinks: chosen by the attention of the original if not given. offset: distance in tokens up to which heads have no bias, `reach` if not
    given. beyond: distances that no window holds and that are hidden as well.
    """
    started = time.monotonic()
    model.eval()
    if sinks is None:
        update("Looking for sinks", 0, 1)
        sinks = choose_sinks(model, windows.input_ids[:, :reach])  # beyond its range the original is not itself
    skeleton = converted_twin(model, [1.0] * model.config.num_attention_heads, reach, policy=policy, sinks=sinks)
    rows = len(attention_modules(skeleton))
    offsets = None
    if offset != 0:
        offsets = [[float(reach if offset is None else offset)] * model.config.num_attention_heads] * rows
    slopes = state.load("reach") or []
    converted = _twin(model, slopes, offsets, sinks, reach, policy, epsilon)
    if len(slopes) < rows:
        slopes = fit_reach(
            converted,
            windows.input_ids,
            reach,
            epsilon,
            lambda done, of: update("Fitting the slopes, layer by layer", done, of),
            state,
            beyond,
        )
    return Added(slopes, offsets, sinks, {}, None, time.monotonic() - started)


def _twin(
    model: PreTrainedModel,
    slopes: list[list[float]],
    offsets: list[list[float]] | None,
    sinks: int,
    reach: int,
    policy: str,
    epsilon: float,
) -> PreTrainedModel:
    """The converted model with what is known of its slopes."""
    heads = model.config.num_attention_heads
    near = sink_distance(model.config, policy, sinks)
    gentle = [gentlest_slope(reach, epsilon)] * heads
    converted = converted_twin(model, gentle, reach, policy=policy, sinks=sinks, sink_distance=near)
    for index, module in enumerate(attention_modules(converted).values()):
        if index < len(slopes):
            module.alibi_slopes = slopes[index]
        if offsets is not None:
            module.alibi_offsets = offsets[index]
    return converted


def refine_added(
    model: PreTrainedModel,
    found: Added,
    parts: Parts,
    reach: int,
    lengths: tuple[int, ...],
    n_tokens: int,
    policy: str = "add",
    update: Update = lambda *_: None,
    state: State = NOWHERE,
) -> Added:
    """Learns slopes and offsets, from those of `calibrate_added`, by the divergence from the teachers on windows of `lengths`, the first of
    which is `reach`; the windows of `parts` have the last of them. At most `n_tokens` are fed, and one step at least.

    Raises:
        AlibiError: a loss that is not finite.
    """
    started = time.monotonic()
    converted = _twin(model, found.slopes, found.offsets, found.sinks, reach, policy, EPSILON)
    offsets = None if found.offsets is None else torch.tensor(found.offsets)
    learnable = Learnable(converted, torch.tensor(found.slopes), "distil", reach, offsets)
    divergence = Divergence(model, converted, context=reach)
    reported = {length: _of_length(parts.reported_on, length, reach) for length in lengths}
    start = {length: divergence.mean(windows) for length, windows in reported.items()}
    shown = Sparkline()
    curve = distil(
        learnable,
        divergence,
        _steps(parts.learned_from, reach, lengths, n_tokens),
        [_of_length(parts.chosen_by, length, reach) for length in lengths],
        lambda done, of, kl: update(f"Distilling, KL {kl:.4f} {shown.add(kl)}", done, of),
        state,
    )
    end = {length: divergence.mean(windows) for length, windows in reported.items()}
    seconds = found.seconds + time.monotonic() - started
    return Added(learnable.slopes(), learnable.offsets(), found.sinks, {"start": start, "end": end}, curve, seconds)


def _of_length(windows: CalibrationWindows, length: int, reach: int) -> CalibrationWindows:
    """Within the range every token is compared, beyond it those that see at least half a range of the truncated teacher's tokens."""
    return windows.of_length(length, reach if length <= reach else reach // 2)


def _steps(
    windows: CalibrationWindows, reach: int, lengths: tuple[int, ...], n_tokens: int
) -> list[list[CalibrationWindows]]:
    """Each step has a batch within the range and one beyond it, of the longer lengths in turn."""
    whole = windows.input_ids.shape[1] // reach * reach
    steps: list[list[CalibrationWindows]] = []
    fed = row = 0
    while row < len(windows.input_ids):
        length = lengths[1 + len(steps) % (len(lengths) - 1)]
        room = min(TOKENS_PER_BATCH, (n_tokens - fed) // 2)
        n = max(1, room // length)
        rows = CalibrationWindows(windows.input_ids[row : row + n], windows.compared[row : row + n], windows.text)
        ids, compared = (part[:, :whole].reshape(-1, reach) for part in (rows.input_ids, rows.compared))
        near = CalibrationWindows(ids, compared, rows.text).batches(room)[0]
        step = [near, _of_length(rows, length, reach)]
        fed += sum(part.n_tokens for part in step)
        if fed > n_tokens and steps:
            break
        steps.append(step)
        row += n
    return steps
