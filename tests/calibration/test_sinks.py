"""How many attention sinks a model has, and where that number ends up."""

import pytest
import torch

from alibi_cli.calibration import added
from alibi_cli.calibration.added import calibrate_added
from alibi_cli.calibration.replaced import calibrate_replaced
from alibi_cli.calibration.sinks import choose_sinks
from alibi_cli.calibration.windows import CalibrationWindows, Parts
from tests.calibration.helpers import FACTS, random_windows
from tests.models import sample_tokens, tiny_model

LENGTH, FIRST = 64, 3  # the token that sinks are made of


def resting(n: int, share: float = 0.5) -> tuple[torch.nn.Module, torch.Tensor]:
    """A Llama whose heads rest so much of their weight on the first n tokens, and are indifferent to the others; (40, L) windows."""
    rotation = {"rope_type": "default", "rope_theta": 1e15}  # of which all but the first pair hardly turn
    model = tiny_model("llama", torch.float32, attention_bias=True, rope_parameters=rotation)
    mark = torch.zeros(48)
    mark[0] = 1.0
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = 0
        embedding[FIRST] = 0
        embedding[FIRST, 0] = 1
        score = torch.tensor(share / (1 - share) * LENGTH / max(n, 1)).log()
        for layer in model.model.layers:
            attention = layer.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            layer.mlp.down_proj.weight.zero_()
            attention.q_proj.bias.view(6, 8)[:, 3] = 1.0  # a pair that does not turn
            attention.k_proj.weight.view(2, 8, 48)[:, 3] = (
                mark * score * 8**0.5 / 48**0.5
            )  # after the norm, the mark is sqrt(48)
    tokens = sample_tokens(40, LENGTH)
    tokens[tokens == FIRST] = 4
    tokens[:, :n] = FIRST
    return model, tokens


@pytest.mark.parametrize(("n", "chosen"), [(0, 0), (1, 1), (2, 2), (3, 4), (4, 4), (6, 8)])
def test_the_number_of_sinks_is_found(n, chosen):
    model, tokens = resting(n)
    assert choose_sinks(model, tokens) == chosen


@pytest.mark.parametrize("n", [1, 2, 4])
def test_under_both_policies(n):
    model, tokens = resting(n)
    windows = CalibrationWindows(tokens, torch.ones_like(tokens, dtype=torch.bool), FACTS)
    assert calibrate_added(model, windows, 48).sinks == n
    learned, rest = windows.split(24)
    found = calibrate_replaced(model, Parts(learned, *rest.split(8)), "look-back")
    assert found.sinks == n == found.converted.config.alibi_sinks
    assert found.heads.sinks == n


def test_a_little_weight_is_no_sink():
    model, tokens = resting(2, share=0.005)
    assert choose_sinks(model, tokens) == 0


def test_a_model_that_looks_everywhere_has_none():
    model = tiny_model("llama", torch.float32, initializer_range=0.02)
    assert choose_sinks(model, random_windows(100, LENGTH).input_ids) == 0


def test_what_lies_beyond_the_range_has_no_say(monkeypatch):
    """There the original has never been, and may do anything."""
    given = []
    monkeypatch.setattr(added, "choose_sinks", lambda model, ids: given.append(ids) or 2)
    windows = random_windows(2, LENGTH)
    assert calibrate_added(tiny_model("llama", torch.float32), windows, 40).sinks == 2
    assert torch.equal(given[0], windows.input_ids[:, :40])


def test_a_bloom_has_none():
    windows = random_windows(12, 24)
    assert (
        calibrate_replaced(tiny_model("bloom", torch.float32), Parts(windows, windows, windows), "look-back").sinks == 0
    )
