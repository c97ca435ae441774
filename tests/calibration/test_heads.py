"""Head statistics against closed forms and against weights that transformers itself gives away."""

import json

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from alibi_cli.calibration import replaced
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.learnable import slope_bounds
from alibi_cli.calibration.lookback import slopes_of_distances
from alibi_cli.calibration.replaced import calibrate_replaced
from alibi_cli.calibration.windows import Parts
from alibi_cli.slopes import get_slopes
from alibi_cli.surgery.apply import apply_alibi
from tests.calibration.helpers import random_windows
from tests.models import FAMILIES, OWN_BIAS, VARIANTS, sample_tokens, tiny_model

LENGTH = 20
SLOPES = [2.0, 1.0, 0.5, 0.25, 0.05, 0.01]
DECODERS_AND_ENCODERS = [name for name in [*FAMILIES, *OWN_BIAS, *VARIANTS] if name not in ("bart", "marian", "t5")]


def figures_of(weights: np.ndarray, sinks: int) -> list[np.ndarray]:
    """(B, H, Q, K) weights -> (H,) distance, entropy, first token's weight, sinks' weight, distance without sinks, by definition."""
    weights = weights.astype(np.float64)
    position = np.arange(weights.shape[-1])
    distance = np.abs(position[:, None] - position[None, :])
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    others = weights[..., sinks:]
    return [
        (weights * distance).sum(-1).mean((0, 2)),
        -(weights * logs).sum(-1).mean((0, 2)),
        weights[..., 0].mean((0, 2)),
        weights[..., :sinks].sum(-1).mean((0, 2)),
        (others * distance[:, sinks:]).sum((0, 2, 3)) / others.sum((0, 2, 3)),
    ]


def causal_weights(slopes: list[float], length: int, preference: list[float]) -> np.ndarray:
    """(1, H, Q, K) of heads whose scores are the bias and, for the first key, `preference`."""
    position = np.arange(length)
    scores = -np.array(slopes)[:, None, None] * (position[:, None] - position[None, :])
    scores[:, :, 0] += np.array(preference)[:, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True, where=np.tri(length) > 0, initial=-np.inf)) * np.tri(length)
    return (weights / weights.sum(-1, keepdims=True))[None]


def all_figures(found) -> list[np.ndarray]:
    return [found.distance, found.entropy, found.first_token, found.sink_weight, found.distance_without_sinks]


@pytest.mark.parametrize("sinks", [0, 3])
def test_a_head_without_content_has_the_statistics_of_its_slope(sinks):
    model = tiny_model("llama", torch.float32)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    apply_alibi(model, 64, slopes=SLOPES)
    found = observe_heads(model, [sample_tokens(2, LENGTH), sample_tokens(1, LENGTH, 1)], sinks=sinks)
    nothing = [0.0] * len(SLOPES)
    expected = figures_of(causal_weights(SLOPES, LENGTH, nothing), sinks)
    for figure, wanted in zip(all_figures(found), expected, strict=True):
        assert np.abs(figure - wanted).max() < 1e-5
    others = figures_of(causal_weights([1.1 * m for m in SLOPES], LENGTH, nothing), sinks)
    for index in (0, 1, 4):  # the oracle can tell
        assert np.abs(all_figures(found)[index] - others[index]).max() > 0.01


def resting_on_the_first_token(preference: list[float]) -> tuple[PreTrainedModel, torch.Tensor]:
    """An ALiBi model and tokens: in its first layer, the scores of head h are the bias and `preference[h]` more for the first token."""
    model = tiny_model("gpt2", torch.float32)
    apply_alibi(model, 64, slopes=SLOPES)
    tokens = torch.full((1, 200), 7)
    tokens[0, 0] = 3
    block = model.transformer.h[0]
    first, others = block.ln_1(model.transformer.wte(torch.tensor([3, 7])).detach())
    difference = (first - others) / (first - others).square().sum()
    projection = block.attn.c_attn.weight.data.view(48, 3, 6, 8)  # (d, query key value, heads, d of a head)
    projection[:, 0] = 0
    projection[:, 1] = difference.detach()[:, None, None] * torch.tensor(preference)[None, :, None] * 8**-0.5
    block.attn.c_attn.bias.data.zero_()[:48] = 1.0
    return model, tokens


def test_attention_that_rests_on_the_first_token_is_told_from_reading():
    preference = [0.0, 4.0, 8.0, 10.0, 30.0, 30.0]
    model, tokens = resting_on_the_first_token(preference)
    found = observe_heads(model, [tokens], sinks=1)
    expected = figures_of(causal_weights(SLOPES, 200, preference), 1)
    for figure, wanted in zip(all_figures(found), expected, strict=True):
        assert (np.abs(figure[0] - wanted) < 1e-6 + 1e-4 * wanted).all()
    assert found.sink_weight[0, 4] == pytest.approx(1, abs=1e-6) and found.distance[0, 4] == pytest.approx(99.5)
    # The look-back gets the slopes of all heads whose reach fits into the window, even of one with 1e-13 of its weight off the sink.
    with_sinks, without = (
        slopes_of_distances(each[0])[:5].numpy() for each in (found.distance, found.distance_without_sinks)
    )
    assert without == pytest.approx(SLOPES[:5], rel=0.01)
    assert (with_sinks[3:] < 0.7 * np.array(SLOPES[3:5])).all()


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "falcon", "bloom"])
def test_a_model_is_seen_as_transformers_shows_it(family, sinks):
    model = tiny_model(family, torch.float32)
    tokens = sample_tokens(3, LENGTH)
    shown = tiny_model(family, torch.float32, attn_implementation="eager")
    shown.config._attn_implementation = "eager"
    weights = shown(input_ids=tokens, output_attentions=True).attentions[1].detach().numpy()  # (B, H, Q, K)
    expected = figures_of(weights, sinks)
    if family == "bloom":  # the stock model, which is ALiBi, says what the converted one has to do
        apply_alibi(model, 64, slopes=get_slopes(6))
    seen = observe_heads(model, [tokens], sinks=sinks)
    for figure, wanted in zip(all_figures(seen), expected, strict=True):
        assert np.abs(figure[1] - wanted).max() < 1e-4
    if sinks == 0:
        assert np.array_equal(seen.distance_without_sinks, seen.distance)
        return
    assert np.abs(seen.distance_without_sinks[1] - figures_of(weights, sinks - 1)[4]).max() > 0.01
    others, position = weights[..., sinks:], np.arange(LENGTH)
    looked = (others * np.abs(position[:, None] - position[None, sinks:])).sum(-1)
    each = looked / np.maximum(others.sum(-1), 1e-30)
    seeing = others.sum(-1) > 0
    assert (
        np.abs(seen.distance_without_sinks[1] - each.mean((0, 2), where=seeing)).max() > 0.01
    )  # not one query, one vote


def test_a_head_that_sees_sinks_alone_has_no_distance_and_the_gentlest_slope():
    model, tokens = tiny_model("llama", torch.float32), sample_tokens(1, LENGTH)
    found = observe_heads(model, [tokens], sinks=LENGTH)
    assert np.isnan(found.distance_without_sinks).all() and np.abs(found.sink_weight - 1).max() < 1e-6
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["mean_distance_without_sinks"][0][0] is None
    assert (slopes_of_distances(found.distance_without_sinks) == 0).all()
    with pytest.raises(ValueError, match="sinks is -1"):
        observe_heads(model, [tokens], sinks=-1)


@pytest.mark.parametrize("sinks", [0, 2, LENGTH])
def test_the_look_back_starts_from_distances_without_sinks(sinks, monkeypatch):
    given = []

    def remembered(distance):
        given.append(distance)
        return slopes_of_distances(distance)

    monkeypatch.setattr(replaced, "slopes_of_distances", remembered)
    windows = random_windows(4, LENGTH)
    model = tiny_model("llama", torch.float32)
    found = calibrate_replaced(model, Parts(windows, windows, windows), "look-back", sinks=sinks)
    assert np.array_equal(given[0], found.heads.distance_without_sinks, equal_nan=True)
    assert np.array_equal(given[0], observe_heads(model, [windows.input_ids], sinks=0).distance) == (sinks == 0)
    assert found.heads.sinks == sinks
    assert np.min(found.learnable.slopes()) >= slope_bounds(LENGTH)[0] * 0.999


@pytest.mark.parametrize("name", DECODERS_AND_ENCODERS)
def test_every_family_shows_its_heads_before_and_after(name):
    model = tiny_model(name, torch.float32)
    attention, tokens = model.config._attn_implementation, sample_tokens(2, LENGTH)
    logits = model(input_ids=tokens).logits
    before = observe_heads(model, [tokens])
    assert model.config._attn_implementation == attention
    assert torch.equal(model(input_ids=tokens).logits, logits)  # looking changes nothing
    apply_alibi(model, 64, slopes=[100.0] * model.config.num_attention_heads)
    after = observe_heads(model, [tokens])
    assert before.distance.shape == after.distance.shape
    assert after.distance.max() < 0.1 < before.distance.min()  # so steep a head sees itself alone
    assert after.entropy.max() < before.entropy.max()
