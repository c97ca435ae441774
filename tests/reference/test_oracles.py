"""Slopes and biases against an independent formula and against the two stock families that have ALiBi: BLOOM and MPT."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from alibi_cli.runtime.alibi_attention import alibi_bias, alibi_distances
from alibi_cli.slopes import get_slopes
from tests.reference.textbook import textbook_slopes


@pytest.mark.parametrize("n", range(1, 257))
def test_slopes_equal_the_independent_formula(n: int) -> None:
    assert get_slopes(n) == pytest.approx(textbook_slopes(n), rel=1e-12)
    assert len(get_slopes(n)) == n


def test_golden_slopes() -> None:
    assert get_slopes(1) == [1 / 256]
    assert get_slopes(2) == [1 / 16, 1 / 256]
    assert get_slopes(3) == [0.0625, 0.00390625, 0.25]
    assert get_slopes(6) == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert get_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert get_slopes(12)[8:] == pytest.approx([0.70710678, 0.35355339, 0.17677670, 0.08838835], rel=1e-7)
    assert get_slopes(8, max_bias=16) == [2.0 ** (-2 * i) for i in range(1, 9)]


def ours(heads: int, length: int) -> torch.Tensor:
    return alibi_bias(alibi_distances(1, length, length), get_slopes(heads), torch.float32)[0]


def row_shifted(bias: torch.Tensor, length: int) -> torch.Tensor:
    """(H, 1, K) as BLOOM and MPT keep it -> (H, Q, K) with every row's visible maximum at zero, which softmax cannot tell apart."""
    full = bias.reshape(bias.shape[0], 1, length).expand(-1, length, -1).clone()
    full = full.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    return full - full.max(-1, keepdim=True).values


@pytest.mark.parametrize("heads", range(1, 64))
def test_bias_equals_bloom_and_mpt(heads: int) -> None:
    for length in (1, 2, 13, 64, 195):
        visible = torch.ones(length, length).tril().bool()
        bloom = build_alibi_tensor(torch.ones(1, length), heads, torch.float32)
        mpt = build_mpt_alibi_tensor(heads, length, alibi_bias_max=8)
        for other in (bloom, mpt):
            assert torch.allclose(
                ours(heads, length)[:, visible], row_shifted(other, length)[:, visible], rtol=1e-5, atol=1e-4
            )
    steeper = alibi_bias(alibi_distances(1, 64, 64), [1.1 * m for m in get_slopes(heads)], torch.float32)[0]
    visible = torch.ones(64, 64).tril().bool()
    assert not torch.allclose(
        steeper[:, visible], row_shifted(build_mpt_alibi_tensor(heads, 64, 8), 64)[:, visible], rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, None, "8"])
def test_bad_head_counts_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        get_slopes(bad)


@pytest.mark.parametrize("bad", [0.0, -8.0, float("nan"), float("inf")])
def test_bad_max_bias_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="max_bias"):
        get_slopes(8, bad)
