"""Slopes by reach against a loop over heads and queries in float64: the gentlest that hide what lies beyond the range."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alibi_cli.calibration.added import calibrate_added
from alibi_cli.calibration.reach import STEEPEST, fit_reach, gentlest_slope, smallest_slopes
from alibi_cli.calibration.twin import converted_twin
from alibi_cli.calibration.windows import CalibrationWindows
from tests.attention.test_near_sinks import FREQUENCIES, ROTATED, WIDTH, turn
from tests.models import OLD_MAX, sample_tokens, tiny_model

KEYS, REACH, SINKS, EPSILON = 94, 30, 3, 0.06  # each query that has keys beyond the range is sampled
OFFSETS = [float(REACH), 29.0, 27.5]


def queries_and_keys():
    generator = torch.Generator().manual_seed(5)
    return [1.5 * torch.randn(2, 3, KEYS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2)]


def share_beyond(q, k, slopes, causal, limit, sinks=SINKS):
    """(H,): of the weight of the sampled queries that lies on keys beyond the range that are no sinks. q, k (B, H, K, D), not rotated."""
    sampled = range(REACH, KEYS)
    keys = turn(k, torch.arange(KEYS)).numpy()
    total = np.zeros(3)
    for b, h in np.ndindex(2, 3):
        for i in sampled:
            near = i if limit is None else min(i, limit)
            plain, moved = (turn(q[b, h, i], at).numpy() for at in (i, near))
            scores = np.array([keys[b, h, j] @ (moved if j < sinks else plain) for j in range(KEYS)]) / math.sqrt(WIDTH)
            distance = np.abs(i - np.arange(KEYS))
            distance[:sinks] = 0
            scores -= slopes[h] * np.maximum(0, distance - OFFSETS[h])
            scores[np.arange(KEYS) > i] = -np.inf if causal else scores[np.arange(KEYS) > i]
            weights = np.exp(scores - scores.max())
            total[h] += weights[distance > REACH].sum() / weights.sum() / len(sampled) / 2
    return total


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("limit", [None, 12])
def test_the_share_beyond_the_range_is_what_was_asked_for(causal: bool, limit: int | None) -> None:
    q, k = queries_and_keys()
    k[:, :, :SINKS] *= 2
    q[..., ROTATED:] = 0  # so that the rotation decides
    module = SimpleNamespace(
        alibi_rotation=(SimpleNamespace(inv_freq=FREQUENCIES), False), config=SimpleNamespace(alibi_sink_distance=limit)
    )
    rotated = turn(q, torch.arange(KEYS)), turn(k, torch.arange(KEYS))
    slopes = smallest_slopes(module, *rotated, None, causal, OFFSETS, SINKS, REACH, EPSILON)
    assert all(gentlest_slope(REACH, EPSILON) < slope < STEEPEST for slope in slopes)
    assert np.abs(share_beyond(q, k, slopes, causal, limit) / EPSILON - 1).max() < 1e-3
    other = 12 if limit is None else None
    assert np.abs(share_beyond(q, k, slopes, causal, other) / EPSILON - 1).max() > 1e-2
    assert np.abs(share_beyond(q, k, slopes, causal, limit, sinks=0) / EPSILON - 1).max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "glm", "gptj"])
def test_a_model_is_fitted_with_its_sinks_as_near_as_it_will_see_them(family: str) -> None:
    model, tokens = tiny_model(family, torch.float32), sample_tokens(2, 3 * OLD_MAX)
    heads = model.config.num_attention_heads
    found = []
    for near in (None, OLD_MAX):
        settings = dict(policy="add", sinks=2, offsets=[float(OLD_MAX)] * heads, sink_distance=near)
        found.append(fit_reach(converted_twin(model, [0.1] * heads, OLD_MAX, **settings), tokens, OLD_MAX, 0.05))
    assert found[0] != found[1]
    windows = CalibrationWindows(tokens, torch.ones_like(tokens).bool(), "")
    assert calibrate_added(model, windows, OLD_MAX, sinks=2, epsilon=0.05).slopes == found[1]


def test_families_without_a_rotation_to_turn_are_calibrated_with_sinks_all_the_same() -> None:
    """The rule is that of conversion: calibration must not ask for a distance that a family refuses."""
    model, tokens = tiny_model("falcon", torch.float32), sample_tokens(1, 3 * OLD_MAX)
    windows = CalibrationWindows(tokens, torch.ones_like(tokens).bool(), "")
    with pytest.raises(Exception, match="does not show its queries and keys"):
        calibrate_added(model, windows, OLD_MAX, sinks=2)
