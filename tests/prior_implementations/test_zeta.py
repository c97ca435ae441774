"""zeta's AlibiPositionalBias, row by row (docs/prior-implementations.md)."""

import copy

import pytest
import torch

from alibi_cli import AlibiPositionalBias, LearnedAlibiPositionalBias, get_slopes
from tests.reference.textbook import textbook_slopes


def textbook(heads: int, i: int, j: int) -> torch.Tensor:
    """(H, i, j) by loops, the queries being the last i of j positions."""
    rows = [[[-m * abs(q - k) for k in range(j)] for q in range(j - i, j)] for m in textbook_slopes(heads)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12])
def test_z1_methods_and_attributes_as_documented(heads: int) -> None:
    module = AlibiPositionalBias(heads=heads, total_heads=12)
    assert AlibiPositionalBias._get_slopes(heads) == get_slopes(heads)
    assert module.slopes.tolist() == pytest.approx(get_slopes(heads)) and module.bias is None
    expected = textbook(heads, 5, 9)
    for bias in (module(5, 9), module.get_bias(5, 9, torch.device("cpu")), module.get_bias(5, 9)):
        assert bias.shape == (12, 5, 9) and torch.allclose(bias[:heads].double(), expected, rtol=1e-6, atol=0)
        assert not torch.allclose(bias[:heads].double(), expected.flip(-1), rtol=1e-2, atol=1e-2)
    assert torch.equal(module.bias, module(5, 9))


@pytest.mark.parametrize("cls", [AlibiPositionalBias, LearnedAlibiPositionalBias])
def test_z2_the_classes_can_be_constructed_and_called(cls: type) -> None:
    assert cls(heads=4, total_heads=8)(10, 10).shape == (8, 10, 10)


def test_z3_the_query_itself_has_the_highest_bias() -> None:
    bias = AlibiPositionalBias(6)(7, 11)
    assert torch.equal(bias.argmax(-1), torch.arange(4, 11).expand(6, 7)) and torch.all(bias.amax(-1) == 0)
    as_documented = -torch.arange(11.0).expand(6, 7, 11)  # favours key 0
    assert not torch.equal(as_documented.argmax(-1), torch.arange(4, 11).expand(6, 7))


def test_z4_other_heads_get_nought_and_nothing_is_saved() -> None:
    module = AlibiPositionalBias(4, 8)
    bias = module(10, 10)
    assert bias.shape == (8, 10, 10) and torch.all(bias[4:] == 0) and torch.all(bias[:4, 0, 1:] < 0)
    assert not module.state_dict() and not list(module.parameters())


CALLS = [(10, 10), (1, 8), (5, 5), (8, 15), (1, 16), (2, 11), (3, 3), (15, 15), (1, 1), (4, 16)]


@pytest.mark.parametrize("seed", range(5))
def test_z5_cache_is_independent_of_history(seed: int) -> None:
    order = torch.randperm(len(CALLS), generator=torch.Generator().manual_seed(seed)).tolist()
    module = AlibiPositionalBias(3, 4)
    for i, j in [(10, 10), *(CALLS[n] for n in order)]:
        assert torch.equal(module(i, j), AlibiPositionalBias(3, 4)(i, j)), (i, j)


def test_z5_the_wrong_slice_would_be_noticed() -> None:
    module = AlibiPositionalBias(3)
    assert not torch.equal(module(10, 10)[:, :1, :8], AlibiPositionalBias(3)(1, 8))


def test_z5_what_callers_do_to_the_result_is_not_remembered() -> None:
    module = AlibiPositionalBias(2)
    fresh = module(6, 6).clone()
    module(6, 6).fill_(7.0)
    assert torch.equal(module(6, 6), fresh)
    with torch.inference_mode():
        trained_later = AlibiPositionalBias(2)
        trained_later(6, 6)
    scores = torch.zeros(2, 6, 6, requires_grad=True)
    (scores * trained_later(6, 6)).sum().backward()
    assert torch.equal(scores.grad, fresh)


@pytest.mark.parametrize(("heads", "total"), [(8, 4), (0, None), (-1, 4), (2.0, 4), (True, 2)])
def test_z6_head_counts_that_do_not_fit_are_errors(heads, total) -> None:
    for cls in (AlibiPositionalBias, LearnedAlibiPositionalBias):
        with pytest.raises(ValueError, match="heads"):
            cls(heads, total)


def test_z7_reused_and_recomputed_as_in_the_examples() -> None:
    module = AlibiPositionalBias(heads=4, total_heads=8)
    first = module(10, 10)
    assert module(5, 5).untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    assert module.bias.shape == (8, 10, 10)
    assert module(8, 15).shape == (8, 8, 15) and module.bias.shape == (8, 8, 15)
    for step in range(16, 20):  # decoding beyond the prompt leaves the prompt's bias where it is
        assert module(1, step).shape == (8, 1, step) and module.bias.shape == (8, 8, 15)


@pytest.mark.parametrize(("i", "j"), [(3, 2), (0, 2), (-1, 2), (0, 0)])
def test_z7_lengths_that_make_no_sense_are_errors(i: int, j: int) -> None:
    module = AlibiPositionalBias(2)
    module(9, 9)
    for call in (module, module.get_bias, LearnedAlibiPositionalBias(2)):
        with pytest.raises(ValueError, match="last i of j"):
            call(i, j)


def test_z8_learned_slopes_start_at_the_textbook_stay_positive_and_are_trained() -> None:
    module = LearnedAlibiPositionalBias(4, 6)
    assert torch.allclose(module(5, 9)[:4].double(), textbook(4, 5, 9), rtol=1e-6, atol=0)
    assert torch.all(module(5, 9)[4:] == 0) and module.bias is None
    assert list(module.state_dict()) == ["learned_logslopes"]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        (-module(8, 8).mean()).backward()  # pulls slopes towards zero
        optimizer.step()
    assert torch.all(module.slopes > 0) and torch.all(module.slopes < torch.tensor(get_slopes(4)))
    assert module(8, 8).requires_grad
    with pytest.raises(ValueError, match="positive"):
        LearnedAlibiPositionalBias(2, slopes=[0.5, 0.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_z4_casts_and_moves_of_the_model_leave_the_bias_exact(dtype: torch.dtype) -> None:
    expected = AlibiPositionalBias(12)(4, 400)
    module = AlibiPositionalBias(12)
    module(9, 9)
    assert torch.equal(module.to(dtype)(4, 400), expected) and expected.dtype == torch.float32
    rounded = AlibiPositionalBias(12, slopes=torch.tensor(get_slopes(12), dtype=dtype).tolist())
    assert not torch.equal(rounded(4, 400), expected)
    assert module.double()(4, 400).dtype == torch.float64
    assert torch.equal(copy.deepcopy(module).float()(4, 400), expected)
    assert module.to("meta")(4, 400).device.type == "meta"
    assert torch.equal(module.to_empty(device="cpu").float()(4, 400), expected)  # as loaders leave it
    learned = LearnedAlibiPositionalBias(6).to(dtype)
    assert learned(4, 400).dtype == torch.float32
