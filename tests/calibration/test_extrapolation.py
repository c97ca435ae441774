"""Scores of distances that no calibration window holds, and the slopes that they ask for."""

from typing import Any

import numpy as np
import pytest
import torch

from alibi_cli.calibration import reach as module
from alibi_cli.calibration.extrapolation import Beyond, copies_of
from alibi_cli.calibration.reach import fit_reach
from alibi_cli.calibration.twin import converted_twin
from tests.calibration.shares import share_beyond, shown
from tests.models import is_encoder, sample_tokens, tiny_model

REACH, LENGTH = 40, 60
EPSILON_FAR = module.EPSILON
SOFT: dict[str, Any] = dict(initializer_range=0.06, max_position_embeddings=1024)  # heads that look widely


@pytest.mark.parametrize("family", ["llama", "gptj", "esm", "gemma2", "phi", "llama-yarn"])
def test_the_last_token_sees_at_extrapolated_distances_what_it_sees_in_a_text_that_repeats_itself(family, monkeypatch):
    """The first layer, whose keys depend on nothing but their token, sees in a window thrice what is extrapolated from one."""
    changes = {} if "yarn" in family else {"initializer_range": 0.3, "max_position_embeddings": 1024}
    changes |= {"sliding_window": 1024} if family == "gemma2" else {}
    model = tiny_model(family, **changes)
    tokens, heads = sample_tokens(1, LENGTH), model.config.num_attention_heads
    at = 0 if (encoder := is_encoder(model)) else LENGTH - 1
    monkeypatch.setattr(module, "sampled_queries", lambda *_: torch.tensor([at]))
    settings = {"policy": "add", "offsets": [float(REACH)] * heads}
    shares = {}
    for beyond in (None, Beyond(REACH, 3 * LENGTH)):
        converted = converted_twin(model, [0.3] * heads, LENGTH, **settings)
        slopes = fit_reach(converted, tokens, REACH, 0.5, beyond=beyond)[0]
        converted = converted_twin(model, [0.3] * heads, LENGTH, **settings)
        layer = shown(converted, tokens.repeat(1, 3))[0]
        places = [0 if encoder else 3 * LENGTH - 1]
        reached = [
            share_beyond(layer, h, [m], REACH, 0, LENGTH - 1, not encoder, places)[0] for h, m in enumerate(slopes)
        ]
        shares[beyond] = np.array(reached), np.array(slopes)
    (before, gentle), (after, steep) = shares.values()
    known = before <= EPSILON_FAR
    assert not known.all() and (before[~known] > 1.05 * EPSILON_FAR).any()
    assert after[~known] == pytest.approx(EPSILON_FAR, rel=5e-3) and (steep[~known] > gentle[~known]).all()
    assert after[known] == pytest.approx(before[known]) and (steep[known] == gentle[known]).all()


@pytest.mark.parametrize(
    ("family", "changes", "beyond"),
    [
        # What is farther away than its window is hidden: within what calibration reads, at its end, and beyond it.
        *(("mistral", {"sliding_window": window}, Beyond(REACH, 600)) for window in (50, LENGTH - 1, LENGTH)),
        ("mistral", {"sliding_window": None}, Beyond(REACH, LENGTH)),  # the windows hold it all
    ],
)
def test_what_cannot_be_seen_is_not_extrapolated(family, changes, beyond):
    model = tiny_model(family, **{**SOFT, "initializer_range": 0.3}, **changes)
    found = []
    for each in (None, beyond, Beyond(REACH, 600)):
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=each))
    assert found[0] == found[1]
    assert (found[0] == found[2]) == (changes["sliding_window"] is not None)


def test_a_sliding_window_ends_what_is_extrapolated():
    found = []
    for window, length in ((62, 600), (None, 62), (None, 600)):
        model = tiny_model("mistral", **{**SOFT, "initializer_range": 0.3}, sliding_window=window)
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=Beyond(REACH, length)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize(("trained", "length"), [(10, 100), (30, 107), (30, 30), (10, 20), (10, 21)])
def test_copies_are_those_of_a_loop(encoder, sinks, trained, length):
    keys = 20
    places = torch.tensor([0, 4, 9, 15, 19] if encoder else [14, 15, 19])
    seen = torch.ones(1, len(places), keys, dtype=torch.bool)
    if not encoder:
        seen = (torch.arange(keys) <= places[:, None])[None]
    found: list[set[tuple[int, int, int]]] = [set() for _ in places]
    for copy in copies_of(Beyond(trained, length), places, seen, sinks):
        for row, place in enumerate(places.tolist()):
            for key in copy.seen[0, row].nonzero().flatten().tolist():
                sign = -1 if encoder and place < keys // 2 - 0.5 else 1
                assert copy.distance[row, key] == sign * (copy.turned[row] + place - key)  # as far as it was turned
                found[row].add((key, copy.distance[row, key].item(), sign))
    for row, place in enumerate(places.tolist()):
        ahead = encoder and place < keys // 2 - 0.5
        side = range(place, keys) if ahead else range(place, -1, -1)  # from near to far
        expected, distance = set(), max(keys, trained)
        while distance < length:
            for key in side:
                if key >= sinks and distance < length:
                    expected.add((key, distance, -1 if ahead else 1))
                distance += 1
        assert found[row] == expected, place


def test_a_length_without_end_is_looked_at_as_far_as_anything_can_be_seen(monkeypatch):
    model = tiny_model("mistral", **{**SOFT, "initializer_range": 0.3}, sliding_window=None)
    found = []
    for nats, length in ((30.0, 1 << 31), (1e9, 2000), (0.01, 2000)):
        monkeypatch.setattr(module, "NEGLIGIBLE", nats)
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=Beyond(REACH, length)))
    assert found[0] == found[1] != found[2]
