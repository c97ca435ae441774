"""The gradient of the slopes through the fused kernel, against autograd through the definition in float64."""

from types import SimpleNamespace

import pytest
import torch

from alibi_cli.runtime.alibi_attention import Compact, alibi_attention

SLOPES = [0.5, 0.1, 3.0, 0.01]


def by_definition(query, key, value, slopes, causal, softcap):
    """(B, H, L, D) -> (B, L, H, D)"""
    position = torch.arange(query.shape[2])
    distance = (position[:, None] - position[None, :]).abs()
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores - slopes[:, None, None] * distance
    if causal:
        scores = scores.masked_fill(position[:, None] < position[None, :], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("causal", "softcap"), [(True, None), (True, 5.0), (False, None)])
@pytest.mark.parametrize("length", [40, 600])
def test_slopes_get_their_exact_gradient_and_the_output_is_unchanged(length, causal, softcap, dtype):
    generator = torch.Generator().manual_seed(0)
    query, key, value, wanted = (
        torch.randn(2, 4, length, 16, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    exact = torch.tensor(SLOPES, dtype=torch.float64, requires_grad=True)
    expected = by_definition(query, key, value, exact, causal, softcap)
    (expected * wanted.transpose(1, 2)).sum().backward()

    slopes = torch.tensor(SLOPES, dtype=dtype, requires_grad=True)
    module, distances = SimpleNamespace(alibi_slopes=slopes, training=False), Compact.of(length, length, causal, "cpu")
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]
    output, _ = alibi_attention(module, *inputs, distances, softcap=softcap)
    (output * wanted.transpose(1, 2)).sum().backward()
    error = 1e-10 if dtype == torch.float64 else 2e-5
    assert (output - expected).abs().max() < error
    assert (slopes.grad - exact.grad).abs().max() < error * exact.grad.abs().max()
    assert all(tensor.grad.shape == tensor.shape for tensor in inputs)
    assert exact.grad.abs().min() > 1e-3  # there is something to get wrong


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True)]
)
def test_in_16_bits_steep_slopes_get_their_gradient_far_from_the_beginning(dtype, autocast):
    generator = torch.Generator().manual_seed(0)
    query, key, value, wanted = (
        torch.randn(1, 3, 1500, 16, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    exact = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    (by_definition(query, key, value, exact, True, None) * wanted.transpose(1, 2)).sum().backward()
    slopes = torch.tensor([2.0, 1.0, 0.5], requires_grad=True)
    module, distances = SimpleNamespace(alibi_slopes=slopes, training=True), Compact.of(1500, 1500, True, "cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, _ = alibi_attention(module, *(tensor.to(dtype) for tensor in (query, key, value)), distances)
    (output * wanted.transpose(1, 2)).sum().backward()
    assert (slopes.grad - exact.grad).norm() < 0.01 * exact.grad.norm()
