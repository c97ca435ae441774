"""Slopes, and little else, learned from the original's own predictions: every weight that is not listed stays as it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.windows import CalibrationWindows
from alibi_cli.errors import AlibiError

WARM_UP = 10
# Steps are what is short: demo-gpt2 with its norms recovers 94.7 % in 100 steps of 2048 tokens, more in 400 of 512 (decision 008).
TOKENS_PER_STEP = 512
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
    steps: Sequence[Sequence[CalibrationWindows]],
    chosen_by: Sequence[CalibrationWindows],
    on_step: Callable[[int, int, float], None] = lambda done, of, kl: None,
    state: State = NOWHERE,
) -> Curve:
    """Adam, once over `steps`, each the windows whose divergences are averaged.

    Keeps the best state on the windows of `chosen_by`, and ends early if that no longer improves. state: where an interrupted run goes on.

    Raises:
        AlibiError: a loss that is not finite.
    """
    optimizer = torch.optim.Adam(learnable.groups(), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / len(steps))) / 2
    )
    for parameter in learnable.parameters():
        parameter.requires_grad_(True)
    first, seen, since, curve = 0, 0, 0, Curve()
    kept = state.load("distil")
    if kept is None:
        best_kl, best = _mean(divergence, chosen_by), learnable.state()
        curve.held_out.append((0, best_kl))
    else:
        first, seen, since, best_kl, best = (kept[key] for key in ("step", "seen", "since", "best_kl", "best"))
        curve = Curve(kept["kl"], kept["held_out"])
        learnable.restore(kept["now"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
    for step in range(first, len(steps)):
        kl = 0.0
        for windows in steps[step]:
            learnable.place()  # for each batch again: its backward pass frees the graph from the parameters on
            kl += divergence.backward(*windows.batch(slice(None), divergence.device)) / len(steps[step])
            seen += windows.n_tokens
        if not math.isfinite(kl):
            raise AlibiError(
                f"Calibration met a loss of {kl} at step {step + 1}.",
                hint="Look for NaN weights, or calibrate in float32.",
            )
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        curve.kl.append((seen, kl))
        on_step(step + 1, len(steps), kl)
        if (step + 1) % math.ceil(len(steps) / CHECKS) == 0 or step + 1 == len(steps):
            learnable.place()
            now = _mean(divergence, chosen_by)
            curve.held_out.append((seen, now))
            since = 0 if now < best_kl * (1 - GAIN) else since + 1
            if now < best_kl:
                best_kl, best = now, learnable.state()
            if since >= PATIENCE:
                curve.stopped_early = True
                break
        if state.is_due():
            state.save(
                "distil",
                {
                    **{"step": step + 1, "seen": seen, "since": since, "best_kl": best_kl, "best": best},
                    **{"kl": curve.kl, "held_out": curve.held_out, "now": learnable.state()},
                    **{"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()},
                },
            )
    learnable.restore(best)
    for parameter in learnable.parameters():
        parameter.requires_grad_(False)
    learnable.place()
    return curve


def one_by_one(windows: CalibrationWindows) -> list[list[CalibrationWindows]]:
    """Steps of one batch each, TOKENS_PER_STEP tokens or one window."""
    return [[batch] for batch in windows.batches(TOKENS_PER_STEP)]


def _mean(divergence: Divergence, parts: Sequence[CalibrationWindows]) -> float:
    return sum(divergence.mean(part) for part in parts) / len(parts)
