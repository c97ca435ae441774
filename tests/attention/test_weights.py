"""`output_attentions=True`: the weights of every layer and family, exact, and nothing that it changes stays changed."""

import pytest
import torch

from alibi_cli import apply_alibi, get_slopes
from tests.models import FAMILIES, OWN_BIAS, sample_tokens, tiny_model


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_BIAS])
@torch.no_grad()
def test_every_family_gives_the_weights_of_every_layer(family: str) -> None:
    model = tiny_model(family)
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 9)
    inputs = {"input_ids": tokens, **({"decoder_input_ids": tokens[:, :5]} if model.config.is_encoder_decoder else {})}
    before = model(**inputs)
    asked = model(**inputs, output_attentions=True)
    kinds = [key for key in asked if "attentions" in key and asked[key]]
    assert len(kinds) == (3 if model.config.is_encoder_decoder else 1)
    for kind in kinds:
        assert len(asked[kind]) == 2
        for weights in asked[kind]:
            queries, keys = (
                (9 if kind.startswith("enc") or len(kinds) == 1 else 5),
                (5 if kind.startswith("dec") else 9),
            )
            assert weights.shape == (2, model.config.num_attention_heads, queries, keys) and (weights >= 0).all()
            total = weights.sum(-1)
            assert (total <= 1 + 1e-6).all() and (
                family == "gpt_oss" or (total >= 1 - 1e-6).all()
            )  # it has learned sinks
    assert (asked.logits - before.logits).abs().max() < 1e-6
    again = model(**inputs)
    assert torch.equal(again.logits, before.logits) and not any(again.get(kind) for kind in kinds)


@torch.no_grad()
def test_they_are_those_of_the_definition_in_a_config_and_with_a_cache() -> None:
    """GPT-2 with positions of zero and the bias as its own mask computes them without this package."""
    stock, model = tiny_model("gpt2", attn_implementation="eager"), tiny_model("gpt2")
    apply_alibi(model, 64)
    stock.transformer.wpe.weight.zero_()
    tokens, place = sample_tokens(2, 9), torch.arange(9)
    distance = place[:, None] - place
    bias = -torch.tensor(get_slopes(6), dtype=torch.float64)[:, None, None] * distance
    expected = stock(tokens, attention_mask=bias.masked_fill(distance < 0, -1e30)[None], output_attentions=True)
    steeper = stock(tokens, attention_mask=(1.1 * bias).masked_fill(distance < 0, -1e30)[None], output_attentions=True)
    model.config.output_attentions = True
    found = model(tokens, use_cache=True)
    last = model(tokens[:, 8:], past_key_values=model(tokens[:, :8], use_cache=True).past_key_values)
    for layer in range(2):
        assert (found.attentions[layer] - expected.attentions[layer]).abs().max() < 1e-12
        assert (last.attentions[layer] - expected.attentions[layer][:, :, 8:]).abs().max() < 1e-12
        assert (steeper.attentions[layer] - expected.attentions[layer]).abs().max() > 1e-3
    model.config.output_attentions = False
    assert not model(tokens).attentions


@torch.no_grad()
def test_a_bare_model_in_memory_gives_hidden_states_and_weights() -> None:
    """transformers notes what a class can record when a model is made, and surgery changes its class afterwards."""
    from transformers import LlamaModel

    model = LlamaModel(tiny_model("llama").config).eval()
    apply_alibi(model, 64)
    found = model(sample_tokens(1, 9), output_hidden_states=True, output_attentions=True)
    assert type(model).__name__ == "AlibiLlamaModel" and len(found.hidden_states) == 3 and len(found.attentions) == 2
