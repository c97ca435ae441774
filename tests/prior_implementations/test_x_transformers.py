"""x-transformers' ALiBi, row by row (docs/prior-implementations.md). Rows that zeta shares are in test_zeta.py."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from alibi_cli import AlibiMultiHeadAttention, AlibiPositionalBias, apply_alibi
from tests.models import sample_tokens, tiny_model
from tests.reference.textbook import textbook_logits


def test_t1_rows_are_the_last_queries_and_total_heads_defaults_to_heads() -> None:
    module = AlibiPositionalBias(4)
    assert module.total_heads == 4 and torch.equal(module(3, 8), module(8, 8)[:, -3:])
    assert not torch.equal(module(3, 8), module(8, 8)[:, :3])
    assert not module.state_dict()


@pytest.mark.parametrize(("i", "j"), [(1, 8), (4, 16), (3, 3), (2, 11)])
def test_t2_cached_equals_fresh(i: int, j: int) -> None:
    for earlier in ((20, 20), (2, 30), (1, 1), (5, 9)):
        module = AlibiPositionalBias(6)
        module(*earlier)
        assert torch.equal(module(i, j), AlibiPositionalBias(6)(i, j))


def test_t3_heads_beyond_are_unbiased_and_more_than_all_is_an_error() -> None:
    assert torch.all(AlibiPositionalBias(2, 5)(4, 4)[2:] == 0)
    with pytest.raises(ValueError, match="more than the 5 heads"):
        AlibiPositionalBias(6, 5)


@pytest.mark.parametrize("slopes", [[0.5], [0.5] * 3, [], [0.5, -0.1], [0.5, float("nan")], [0.5, float("inf")]])
def test_t4_slopes_that_do_not_fit_are_errors(slopes: list[float]) -> None:
    with pytest.raises(ValueError, match=r"[Ss]lopes"):
        AlibiPositionalBias(2, slopes=slopes)


def test_t4_slopes_of_ones_own() -> None:
    assert AlibiPositionalBias(2, slopes=[0.5, 0.3])(1, 3).tolist() == [
        [[-1.0, -0.5, 0.0]],
        [pytest.approx([-0.6, -0.3, 0.0])],
    ]


def test_t5_positions_that_start_again() -> None:
    module = AlibiPositionalBias(3, 4)
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    bias = module.forward_custom_pos(positions)
    assert bias.shape == (2, 4, 5, 5) and torch.equal(bias[1], module(5, 5))
    assert torch.equal(bias[0, :, 3:, 3:], module(2, 2)) and not torch.equal(bias[0], module(5, 5))
    assert torch.equal(module.forward_custom_pos(torch.arange(3, 5), torch.arange(5)), module(2, 5))


def test_t5_positions_of_each_head() -> None:
    """x-transformers' shapes: (batch, heads, i) -> (batch, heads, i, j)"""
    module, places = (
        AlibiPositionalBias(2, 3),
        torch.tensor([[[0, 1, 2, 3], [0, 2, 4, 6]], [[3, 1, 0, 2], [0, 1, 0, 1]]]),
    )
    bias = module.forward_custom_pos(places)
    assert bias.shape == (2, 3, 4, 4) and not bias[:, 2].any()
    for batch, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
        of_one = module.forward_custom_pos(places[batch, head])[head]
        assert torch.equal(bias[batch, head], of_one)
    assert not torch.equal(bias[0, 0] / module.slopes[0], bias[0, 1] / module.slopes[1])
    assert torch.equal(module.forward_custom_pos(places[..., 2:], places), bias[..., 2:, :])
    with pytest.raises(ValueError, match=r"\(B, 2, length\)"):
        module.forward_custom_pos(torch.zeros(2, 3, 4))


def test_a_bias_knows_its_device() -> None:
    assert (
        AlibiPositionalBias(2).device == torch.device("cpu") and AlibiPositionalBias(2).to("meta").device.type == "meta"
    )


def test_t7_learned_positions_are_off_after_surgery() -> None:
    stock, tokens = tiny_model("gpt2"), sample_tokens(2, 20)
    off, on = textbook_logits(stock, tokens), textbook_logits(stock, tokens, keep_positions=True)
    apply_alibi(stock, 64)
    ours = stock(input_ids=tokens).logits
    assert (ours - off).abs().max() <= 1e-10 and (ours - on).abs().max() > 1e-3


def test_t8_symmetric_for_encoders() -> None:
    bias = AlibiPositionalBias(6)(9, 9)
    assert torch.equal(bias, bias.transpose(-1, -2))
    torch.manual_seed(0)
    attention = AlibiMultiHeadAttention(2, 8, 0.0, causal=False, batch_first=True).double()
    x = torch.randn(1, 7, 8, dtype=torch.float64)
    assert torch.allclose(attention(x.flip(1)).flip(1), attention(x), atol=1e-12)
    attention.causal = True
    assert not torch.allclose(attention(x.flip(1)).flip(1), attention(x), atol=1e-3)


def test_t9_learned_slopes_are_one_parameter_for_both_directions() -> None:
    from alibi_cli import LearnedAlibiPositionalBias

    module = LearnedAlibiPositionalBias(4)
    assert len(list(module.parameters())) == 1
    bias = module(5, 5)
    assert torch.equal(bias, bias.transpose(-1, -2))


def test_t10_causal_mask_and_bias_go_together_into_one_attention_call() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 6, 8, dtype=torch.float64).unbind(0)
    bias = AlibiPositionalBias(4).double()(6, 6)
    hidden = torch.ones(6, 6).triu(1).bool()
    scores = q @ k.transpose(-1, -2) / 8**0.5 + bias
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    folded = scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(hidden, -torch.inf)[None])
    assert torch.allclose(folded, expected, atol=1e-12)
    unmasked = scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    assert not torch.allclose(unmasked, expected, atol=1e-3)
