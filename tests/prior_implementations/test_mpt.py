"""llm-foundry's MPT, row by row (docs/prior-implementations.md), against transformers' MPT where that has the behaviour."""

import copy

import pytest
import torch
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from alibi_cli import AlibiMultiHeadAttention, AlibiPositionalBias, apply_alibi, get_slopes
from tests.models import sample_tokens, tiny_model
from tests.reference.textbook import textbook_logits


@pytest.mark.parametrize("max_bias", [8, 16])
def test_m1_slopes_with_another_maximal_exponent(max_bias: int) -> None:
    for heads in range(1, 64):
        mpt = build_mpt_alibi_tensor(heads, 2, alibi_bias_max=max_bias).reshape(heads, 2)
        assert get_slopes(heads, max_bias) == pytest.approx((mpt[:, 1] - mpt[:, 0]).tolist(), rel=1e-6)
    assert get_slopes(8, 16) != get_slopes(8, 8)


@pytest.mark.parametrize("heads", [1, 6, 8])
def test_m2_the_last_query_has_the_row_of_mpt(heads: int) -> None:
    mpt = build_mpt_alibi_tensor(heads, 300).reshape(heads, 1, 300)
    assert torch.allclose(AlibiPositionalBias(heads)(1, 300), mpt, rtol=1e-6)
    assert not torch.allclose(AlibiPositionalBias(heads)(300, 300)[:, :1], mpt, rtol=1e-2)


@pytest.mark.parametrize("length", [1, 64])
def test_m4_m6_nothing_is_sized_by_the_length_and_casts_are_safe(length: int) -> None:
    model = tiny_model("gpt2", torch.float32)
    apply_alibi(model, length)
    assert not [b for b in model.buffers() if b.numel() > 100] and not [n for n in model.state_dict() if "alibi" in n]
    tokens = sample_tokens(1, 200)
    expected = model(input_ids=tokens).logits
    there_and_back = copy.deepcopy(model)
    for parameter in there_and_back.parameters():
        parameter.data = parameter.data.double()
    exact = there_and_back(input_ids=tokens).logits
    assert (exact - expected).abs().max() < 1e-3
    assert torch.equal(there_and_back.float()(input_ids=tokens).logits, expected)


def test_m7_m8_engines_that_would_drop_the_bias_are_refused() -> None:
    model = tiny_model("gpt2")
    apply_alibi(model, 64)
    for name in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ValueError, match="drop the bias"):
            model.set_attn_implementation(name)
            model(input_ids=sample_tokens(1, 5))


def test_m9_left_padding_trains() -> None:
    torch.manual_seed(0)
    module = AlibiMultiHeadAttention(4, 16, 0.0, batch_first=True).double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    padding = torch.tensor([[True, True, False, False, False, False]])
    gradients = []
    for y in (module(x, key_padding_mask=padding)[:, 2:], module(x[:, 2:]), module(x)[:, 2:]):
        gradients.append(torch.autograd.grad(y.pow(2).sum(), module.query.weight)[0])
    padded, alone, unmasked = gradients
    assert torch.allclose(padded, alone, atol=1e-12) and not torch.allclose(unmasked, alone, atol=1e-4)


def test_m10_slopes_belong_to_query_heads() -> None:
    stock, tokens = tiny_model("llama"), sample_tokens(1, 16)
    assert stock.config.num_key_value_heads < stock.config.num_attention_heads
    model = copy.deepcopy(stock)
    apply_alibi(model, 64)
    ours, by_group = model(input_ids=tokens).logits, [m for m in get_slopes(2) for _ in range(3)]
    assert (ours - textbook_logits(stock, tokens)).abs().max() <= 1e-10
    assert (ours - textbook_logits(stock, tokens, by_group)).abs().max() > 1e-3


def test_m12_a_cast_of_the_model_does_not_round_slopes() -> None:
    model = tiny_model("gpt2", torch.float32, num_attention_heads=12)
    apply_alibi(model, 64)
    model.bfloat16()
    assert model.transformer.h[0].attn.alibi_slopes == get_slopes(12) == model.config.alibi_slopes
    assert torch.tensor(get_slopes(12)).bfloat16().tolist() != get_slopes(12)
