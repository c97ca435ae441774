"""`output_attentions=True`: the weights of every layer and family, exact, and nothing that it changes stays changed."""

import pytest
import torch

from alibi_cli import apply_alibi, get_slopes
from alibi_cli.calibration.heads import observe_heads
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "gptj", "falcon", "bert", "xglm", "bloom"])
@torch.no_grad()
def test_they_are_given_after_the_heads_were_looked_at(family: str) -> None:
    model = tiny_model(family, torch.float32)
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 9)
    plain, before = model(tokens), model(tokens, output_attentions=True).attentions
    for _ in range(2):  # what was asked for before it does not matter
        observe_heads(model, [tokens])
        after = model(tokens, output_attentions=True).attentions
        assert len(after) == 2 and all(torch.equal(*each) for each in zip(after, before, strict=True))
        observe_heads(model, [tokens])
        again = model(tokens)
        assert not again.get("attentions") and torch.equal(again.logits, plain.logits)


def replica_of(model: torch.nn.Module) -> torch.nn.Module:
    """What DataParallel makes of a model for every GPU and forward pass, which torch makes on GPUs alone."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            setattr(replica, name, child and replicas[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, parameter)
    return replicas[model]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_replicas_give_theirs_and_the_original_is_left_alone(family: str) -> None:
    model, tokens = tiny_model(family), sample_tokens(2, 9)
    apply_alibi(model, 64)
    attention = [module for module in model.modules() if getattr(module, "alibi_slopes", None) is not None]
    expected = model(tokens, output_attentions=True).attentions
    for shown_before in (True, False):
        model(tokens, output_attentions=shown_before)
        for asked in (True, False):
            found = replica_of(model)(tokens, output_attentions=asked).attentions
            assert bool(found) == asked and all(torch.equal(*each) for each in zip(found or (), expected, strict=asked))
            assert [module.alibi_keeps_weights for module in attention] == [shown_before] * 2


@pytest.mark.parametrize(("family", "keys"), [("gpt2", 48), ("falcon", 8)])
@torch.no_grad()
def test_padding_of_a_batch_in_float16_reaches_no_token(family: str, keys: int) -> None:
    """A query of padding sees nothing, and its scores are all far below zero, where the lowest value plus a score is not finite."""
    model = tiny_model(family, torch.float16, **({"bias": True} if family == "falcon" else {}))
    for name, module in model.named_modules():
        if name.endswith(("query_key_value", "c_attn")):
            module.bias[:48], module.bias[48 : 48 + keys] = 4, -4
    apply_alibi(model, 64)
    tokens, mask = sample_tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    for asked in (True, False):
        logits = model(tokens, attention_mask=mask, output_attentions=asked).logits
        assert logits[mask.bool()].isfinite().all()
        alone = model(tokens[:1, 4:]).logits
        assert (logits[0, 4:] - alone[0]).abs().max() < 0.02 * alone.abs().max()
