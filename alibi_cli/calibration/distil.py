"""Slopes, and little else, learned from the original's own predictions: every weight that is not listed stays as it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alibi_cli.calibration.divergence import TOKENS_PER_BATCH, Divergence
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.windows import CalibrationWindows
from alibi_cli.errors import AlibiError

# Adam's step is a change of about this size. A slope is learned by its logarithm: 0.1 is a tenth of it, whatever its size.
SLOPES_RATE, TENSORS_RATE = 0.1, 0.01
WARM_UP = 10
CHECKS, PATIENCE, GAIN = (
    20,
    4,
    1e-3,
)  # looks at the held-out text; how many without a gain of a thousandth end the learning


@dataclass
class Curve:
    """kl: [(tokens seen, KL on their batch)]; held_out: [(tokens seen, KL on text that is not learned from)], nats per token."""

    kl: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False


def distil(
    learnable: Learnable,
    divergence: Divergence,
    windows: CalibrationWindows,
    held_out: CalibrationWindows,
    on_step: Callable[[int, int, float], None] = lambda done, of, kl: None,
) -> Curve:
    """One pass over `windows` with Adam; keeps the best state on `held_out`, and ends early if that no longer improves.

    Raises:
        AlibiError: a loss that is not finite.
    """
    size = max(1, TOKENS_PER_BATCH // windows.input_ids.shape[1])
    steps = math.ceil(len(windows.input_ids) / size)
    tensors = list(learnable.tensors.values())
    optimizer = torch.optim.Adam(
        [{"params": [learnable.log_slopes], "lr": SLOPES_RATE}, {"params": tensors, "lr": TENSORS_RATE}],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for parameter in learnable.parameters():
        parameter.requires_grad_(True)
    curve = Curve()
    best_kl, best, since = divergence.mean(held_out), learnable.state(), 0
    curve.held_out.append((0, best_kl))
    for step in range(steps):
        learnable.place()
        input_ids, compared = windows.batch(slice(step * size, (step + 1) * size), divergence.device)
        kl = divergence.backward(input_ids, compared)
        if not math.isfinite(kl):
            raise AlibiError(
                f"Calibration met a loss of {kl} at step {step + 1}.",
                hint="Look for NaN weights, or calibrate in float32.",
            )
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen = min((step + 1) * size, len(windows.input_ids)) * windows.input_ids.shape[1]
        curve.kl.append((seen, kl))
        on_step(step + 1, steps, kl)
        if (step + 1) % math.ceil(steps / CHECKS) == 0 or step + 1 == steps:
            learnable.place()
            now = divergence.mean(held_out)
            curve.held_out.append((seen, now))
            since = 0 if now < best_kl * (1 - GAIN) else since + 1
            if now < best_kl:
                best_kl, best = now, learnable.state()
            if since >= PATIENCE:
                curve.stopped_early = True
                break
    learnable.restore(best)
    for parameter in learnable.parameters():
        parameter.requires_grad_(False)
    learnable.place()
    return curve
