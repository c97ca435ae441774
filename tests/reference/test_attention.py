"""The attention function itself: gradients, low precision, long distances, what it refuses."""

import math

import numpy as np
import pytest
import torch

from alibi_cli.runtime.alibi_attention import HIDDEN, alibi_attention, alibi_bias, alibi_distances
from alibi_cli.slopes import get_slopes


class Module(torch.nn.Module):
    def __init__(self, slopes):
        super().__init__()
        self.alibi_slopes = slopes


def by_definition(q, k, v, slopes, offset=0):
    """float64 numpy, one score at a time, causal; query i stands at position i + offset."""
    q, k, v = (tensor.detach().double().numpy() for tensor in (q, k, v))
    out = np.zeros((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))
    for b, h, i in np.ndindex(*q.shape[:3]):
        group = h * k.shape[1] // q.shape[1]
        keys = range(i + offset + 1)
        scores = np.array(
            [q[b, h, i] @ k[b, group, j] / math.sqrt(q.shape[3]) - slopes[h] * (i + offset - j) for j in keys]
        )
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights / weights.sum() @ v[b, group, : i + offset + 1]
    return torch.from_numpy(out)


def qkv(heads=6, groups=2, queries=9, keys=9, width=8, dtype=torch.float64, requires_grad=False):
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, heads, queries, width), (2, groups, keys, width), (2, groups, keys, width))
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
        for shape in shapes
    )


def test_forward_equals_the_definition_with_grouped_queries() -> None:
    q, k, v = qkv()
    out, _ = alibi_attention(Module(get_slopes(6)), q, k, v, alibi_distances(2, 9, 9))
    assert (out - by_definition(q, k, v, get_slopes(6))).abs().max() <= 1e-14
    assert (out - by_definition(q, k, v, [1.1 * m for m in get_slopes(6)])).abs().max() > 1e-3


def test_a_query_chunk_after_a_cache_equals_the_same_rows() -> None:
    q, k, v = qkv(queries=3, keys=9)
    out, _ = alibi_attention(Module(get_slopes(6)), q, k, v, alibi_distances(2, 3, 9, q_offset=6))
    assert (out - by_definition(q, k, v, get_slopes(6), offset=6)).abs().max() <= 1e-14


def test_gradients() -> None:
    q, k, v = qkv(queries=5, keys=5, width=4, requires_grad=True)
    module, distances = Module(get_slopes(6)), alibi_distances(2, 5, 5)
    assert torch.autograd.gradcheck(
        lambda *args: alibi_attention(module, *args, distances)[0], (q, k, v), eps=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_low_precision_at_long_distances(dtype: torch.dtype, tolerance: float) -> None:
    """Absolute positions beyond 2^16: a form that multiplied slopes by positions instead of distances would be off by whole units."""
    far = 1 << 17
    q, k, v = qkv(queries=4, keys=64, dtype=dtype)
    distances = alibi_distances(2, 4, 64, q_offset=far + 60, kv_offset=far)
    out, _ = alibi_attention(Module(get_slopes(6)), q, k, v, distances)
    assert (out.double() - by_definition(q, k, v, get_slopes(6), offset=60)).abs().max() <= tolerance


def test_bias_of_the_farthest_keys_is_finite_in_float16() -> None:
    bias = alibi_bias(torch.tensor([[[[-1, -1 - (1 << 20), HIDDEN]]]], dtype=torch.int32), [0.5], torch.float16)
    assert torch.isfinite(bias).all() and bias[0, 0, 0, 0] == 0


def test_distances_are_symmetric_without_a_causal_mask_and_hidden_with_one() -> None:
    causal = alibi_distances(1, 4, 4)[0, 0]
    hidden = HIDDEN
    assert causal.tolist() == [
        [-1, hidden, hidden, hidden],
        [-2, -1, hidden, hidden],
        [-3, -2, -1, hidden],
        [-4, -3, -2, -1],
    ]
    both = alibi_distances(1, 4, 4, mask_function=lambda b, h, q, k: k >= 0)[0, 0]
    assert torch.equal(both, both.T) and both[0].tolist() == [-1, -2, -3, -4]


def test_one_mask_for_the_whole_batch_is_kept_once() -> None:
    assert alibi_distances(8, 4, 4).shape == (1, 1, 4, 4)
    assert alibi_distances(2, 4, 4, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]).bool()).shape == (
        2,
        1,
        4,
        4,
    )


def test_masks_without_distances_are_refused() -> None:
    q, k, v = qkv()
    zeros = torch.zeros(2, 1, 9, 9)
    for mask in (None, zeros, zeros.bool(), zeros.int(), zeros.int() + 1, zeros.long()):
        with pytest.raises(ValueError, match="2-D attention mask"):
            alibi_attention(Module(get_slopes(6)), q, k, v, mask)


def test_layers_share_a_bias_only_if_their_slopes_agree() -> None:
    q, k, v = qkv()
    distances = alibi_distances(2, 9, 9)
    first, second, third = Module(get_slopes(6)), Module([2 * m for m in get_slopes(6)]), Module(None)
    expected = [alibi_attention(m, q, k, v, alibi_distances(2, 9, 9))[0] for m in (first, second, third, first)]
    shared = [alibi_attention(m, q, k, v, distances)[0] for m in (first, second, third, first)]
    assert all(torch.equal(a, b) for a, b in zip(expected, shared, strict=True))
    assert not torch.equal(shared[0], shared[1])
