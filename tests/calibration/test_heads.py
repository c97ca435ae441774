"""Head statistics against closed forms and against weights that transformers itself gives away."""

import numpy as np
import pytest
import torch

from alibi_cli.calibration.heads import observe_heads
from alibi_cli.surgery.apply import apply_alibi
from tests.models import FAMILIES, OWN_BIAS, VARIANTS, sample_tokens, tiny_model

LENGTH = 20
DECODERS_AND_ENCODERS = [name for name in [*FAMILIES, *OWN_BIAS, *VARIANTS] if name not in ("bart", "marian", "t5")]


def without_content(slopes: list[float]) -> np.ndarray:
    """(3, H) distance, entropy and first weight of causal heads whose scores are the bias alone, from the definition."""
    rows = []
    for slope in slopes:
        figures = []
        for i in range(LENGTH):
            weights = np.exp(-slope * np.arange(i, -1, -1.0))  # keys 0 … i
            weights /= weights.sum()
            distances = np.arange(i, -1, -1.0)
            figures.append([(weights * distances).sum(), -(weights * np.log(weights)).sum(), weights[0]])
        rows.append(np.mean(figures, axis=0))
    return np.array(rows).T


def test_a_head_without_content_has_the_statistics_of_its_slope():
    slopes = [2.0, 1.0, 0.5, 0.25, 0.05, 0.01]
    model = tiny_model("llama", torch.float32)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    apply_alibi(model, 64, slopes=slopes)
    found = observe_heads(model, [sample_tokens(2, LENGTH), sample_tokens(1, LENGTH, 1)])
    expected = without_content(slopes)
    for figure, wanted in zip((found.distance, found.entropy, found.first_token), expected, strict=True):
        assert np.abs(figure - wanted).max() < 1e-5
    assert np.abs(found.distance - without_content([1.1 * m for m in slopes])[0]).max() > 0.01  # the oracle can tell


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "falcon"])
def test_an_original_is_seen_as_transformers_shows_it(family):
    model = tiny_model(family, torch.float32)
    tokens = sample_tokens(3, LENGTH)
    seen = observe_heads(model, [tokens])
    shown = tiny_model(family, torch.float32, attn_implementation="eager")
    shown.config._attn_implementation = "eager"
    weights = shown(input_ids=tokens, output_attentions=True).attentions[1].detach().double().numpy()  # (B, H, Q, K)
    distance = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)[None, :])
    assert np.abs(seen.distance[1] - (weights * distance).sum(-1).mean((0, 2))).max() < 1e-4
    assert np.abs(seen.first_token[1] - weights[..., 0].mean((0, 2))).max() < 1e-5


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
