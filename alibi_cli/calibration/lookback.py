"""Slopes from how far each head looks back in the original model. No gradient is taken.

A head whose scores do not depend on content gives a key at distance d a weight in proportion to e^(-m d): a geometric
distribution with mean distance 1 / (e^m - 1). So the slope of a head with mean distance E is m = ln(1 + 1 / E). But content attracts
attention as well, and what it attracts would still be attracted under the bias: one factor for the model, then one for each layer, are
fitted on the same text.

Attention sinks attract most of all, and get no bias in a model with sinks. There, E is the distance without them.
"""

from collections.abc import Callable

import numpy as np
import torch

from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.windows import CalibrationWindows

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)


def slopes_of_distances(distance: np.ndarray) -> torch.Tensor:
    """(layers, H) mean distances -> slopes of the same shape, float32.

    NaN, the distance of a head that gives no weight to anything but sinks, becomes slope 0: the bias that changes the head least.
    """
    distance = np.where(np.isnan(distance), np.inf, distance)
    return torch.from_numpy(np.log1p(1 / np.maximum(distance, 1e-3))).float()


@torch.no_grad()
def fit_factors(
    learnable: Learnable,
    divergence: Divergence,
    windows: CalibrationWindows,
    on_trial: Callable[[int, int, float], None] = lambda done, of, kl: None,
) -> float:
    """Multiplies the slopes by the factors under which the converted model is nearest to the original; returns that KL.

    The factor of the whole model is chosen first, then the layers' in order, from half to twice; each choice is kept only if it is better.
    """
    layers = len(learnable.modules)
    trials = [(slice(None), factor) for factor in FACTORS]
    trials += (
        [(slice(layer, layer + 1), factor) for layer in range(layers) for factor in (0.5, 2.0)] if layers > 1 else []
    )
    best_kl = float("inf")
    best = start = learnable.log_slopes.detach().clone()
    for index, (rows, factor) in enumerate(trials):
        if index == len(FACTORS):
            start = best  # the layers' factors come on top of the model's
        trial = (best if index >= len(FACTORS) else start).clone()
        trial[rows] = start[rows] + float(np.log(factor))
        learnable.log_slopes.copy_(trial)
        learnable.place()
        kl = divergence.mean(windows)
        if kl < best_kl:
            best_kl, best = kl, learnable.log_slopes.detach().clone()
        on_trial(index + 1, len(trials), best_kl)
    learnable.log_slopes.copy_(best)
    learnable.place()
    return best_kl
