"""labml's ALiBi, row by row (docs/prior-implementations.md), with AlibiMultiHeadAttention against loops in float64."""

import math

import pytest
import torch

from alibi_cli import AlibiMultiHeadAttention, KeyValueCache, get_biases, get_slopes
from tests.reference.textbook import textbook_slopes


def by_loops(module, x, padding=None, scaled_bias=False) -> torch.Tensor:
    """(B, L, d_model): attention from the definition, by query. `scaled_bias`: the bias divided by sqrt(D), as labml did in 2021."""
    heads, width = module.heads, module.d_model // module.heads
    q, k, v = (p(x).unflatten(-1, (heads, width)) for p in (module.query, module.key, module.value))
    slopes = textbook_slopes(heads)
    rows = []
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            seen = [
                j for j in range(x.shape[1]) if (j <= i or not module.causal) and (padding is None or not padding[b, j])
            ]
            if not seen:
                rows.append(torch.full((module.d_model,), math.nan, dtype=x.dtype))
                continue
            for h in range(heads):
                distance = torch.tensor([abs(i - j) for j in seen], dtype=x.dtype)
                bias = -slopes[h] * distance / (math.sqrt(width) if scaled_bias else 1.0)
                weights = torch.softmax(k[b, seen, h] @ q[b, i, h] / math.sqrt(width) + bias, 0)
                rows.append(weights @ v[b, seen, h])
    return module.output(torch.cat(rows).reshape(x.shape))


def attention(heads: int = 3, d_model: int = 12, **options) -> AlibiMultiHeadAttention:
    torch.manual_seed(heads)
    return AlibiMultiHeadAttention(heads, d_model, 0.0, batch_first=True, **options).double()


def sample(batch: int, length: int, d_model: int = 12) -> torch.Tensor:
    return 2 * torch.randn(batch, length, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(length))


def test_l1_slopes_are_a_list_and_no_single_geometric_sequence_unless_a_power_of_two() -> None:
    for n in range(1, 257):
        ratio = 2 ** (-(2 ** -(math.log2(n) - 3)))
        single = [ratio * ratio**i for i in range(n)]
        assert (get_slopes(n) == pytest.approx(single, rel=1e-9)) == (n & (n - 1) == 0), n
    assert isinstance(get_slopes(8), list)


def test_l2_biases_have_the_documented_shape() -> None:
    biases = get_biases(6, 50)
    assert (
        biases.shape == (6, 50) and biases.dtype == torch.float32 and biases[4].tolist() == [0.5 * j for j in range(50)]
    )
    for bad in (0, -1, 2.5, None, True):
        with pytest.raises(ValueError, match="positive integer"):
            get_biases(6, bad)
        with pytest.raises(ValueError, match="positive integer"):
            get_biases(bad, 6)


def test_l3_the_bias_is_no_parameter_and_not_saved() -> None:
    module = attention()
    module(sample(1, 30))
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"query", "key", "value", "output"}
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "d_model"), [(1, 4), (3, 12), (4, 8), (6, 24)])
def test_l4_bias_is_added_after_scaling(heads: int, d_model: int, causal: bool) -> None:
    module, x = attention(heads, d_model, causal=causal), sample(2, 11, d_model)
    assert (module(x) - by_loops(module, x)).abs().max() <= 1e-12
    assert (module(x) - by_loops(module, x, scaled_bias=True)).abs().max() > 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_l4_gradients_equal_those_of_the_loops(causal: bool) -> None:
    module = attention(causal=causal)
    gradients = []
    for forward in (module, lambda x: by_loops(module, x)):
        x = sample(2, 7).requires_grad_()
        forward(x).pow(2).sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in module.parameters())])
        module.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-10) for a, b in zip(*gradients, strict=True))
    assert all(
        g.abs().max() > 1e-6
        for name, g in zip(["x", *dict(module.named_parameters())], gradients[0], strict=True)
        if name != "key.bias"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_l5_any_length_and_every_precision(dtype: torch.dtype) -> None:
    module = attention().to(dtype)
    short = module(sample(1, 20).to(dtype))
    long = module(sample(1, 6000).to(dtype)) if dtype == torch.float32 else module(sample(1, 600).to(dtype))
    assert long.dtype == dtype and torch.isfinite(long).all()
    assert torch.equal(module(sample(1, 20).to(dtype)), short)  # the long call left no trace
    exact = module.double()(sample(1, 20))
    assert (short.double() - exact).abs().max() < 0.05


def test_l6_no_mask_is_needed_and_padding_changes_nothing() -> None:
    module, x = attention(), sample(2, 9)
    alone = module(x[1:, 4:])
    for causal in (True, False):
        module.causal = causal
        alone = module(x[1:, 4:])
        padding = torch.zeros(2, 9, dtype=torch.bool)
        padding[1, :4] = True
        out = module(x, key_padding_mask=padding)
        assert torch.allclose(out[1:, 4:], alone, atol=1e-12) and torch.isfinite(out).all()
        expected = by_loops(module, x, padding)
        known = expected.isfinite()
        assert torch.allclose(out[known], expected[known], atol=1e-12)
        assert not torch.allclose(module(x)[1:, 4:], alone, atol=1e-4)  # the padding would have mattered


def test_l6_masks_of_ones_own() -> None:
    module, x = attention(causal=False), sample(3, 6)
    causal = torch.ones(6, 6).tril().bool()
    expected = attention()(x)
    assert torch.allclose(module(x, mask=causal), expected, atol=1e-12)
    assert torch.allclose(module(x, mask=causal[None]), expected, atol=1e-12)
    per_sequence = causal.repeat(3, 1, 1)
    per_sequence[2] = True
    out = module(x, mask=per_sequence)
    assert torch.allclose(out[:2], expected[:2], atol=1e-12) and torch.allclose(out[2], module(x)[2], atol=1e-12)
    module.batch_first = False
    first = module(x.transpose(0, 1), mask=per_sequence.permute(1, 2, 0)).transpose(0, 1)
    assert torch.allclose(first, out, atol=1e-12)
    for bad in (causal.float(), causal[:3], causal[0], causal.repeat(2, 1, 1)):
        with pytest.raises(ValueError, match=r"mask must be"):
            attention()(x, mask=bad)
    for bad in (torch.ones(3, 6), torch.ones(3, 5).bool(), torch.ones(6).bool(), torch.ones(2, 6).bool()):
        with pytest.raises(ValueError, match=r"key_padding_mask must be"):
            attention()(x, key_padding_mask=bad)


@pytest.mark.parametrize("chunks", [[1] * 9, [5, 4], [5, 1, 1, 2], [9]])
def test_l7_cached_equals_uncached_in_both_layouts(chunks: list[int]) -> None:
    module, x = attention(), sample(2, 9)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[0, :3] = True
    whole = module(x, key_padding_mask=padding)
    for batch_first in (True, False):
        module.batch_first, cache, out = batch_first, KeyValueCache(), []
        for part in x.split(chunks, dim=1):
            mask = padding[:, : len(cache) + part.shape[1]]
            y = module(part if batch_first else part.transpose(0, 1), key_padding_mask=mask, cache=cache)
            out.append(y if batch_first else y.transpose(0, 1))
        assert len(cache) == 9 and torch.allclose(torch.cat(out, 1)[1], whole[1], atol=1e-12)
        assert torch.allclose(torch.cat(out, 1)[0, 3:], whole[0, 3:], atol=1e-12)
    module.batch_first = True
    if len(chunks) > 1:  # without the cache, the second part would be another sequence
        assert not torch.allclose(module(x[:, chunks[0] :]), module(x)[:, chunks[0] :], atol=1e-4)


def test_l7_a_refused_call_leaves_the_cache_alone() -> None:
    module, cache = attention(), KeyValueCache()
    module(sample(1, 4), cache=cache)
    with pytest.raises(ValueError, match="key_padding_mask"):
        module(sample(1, 1), key_padding_mask=torch.zeros(1, 1, dtype=torch.bool), cache=cache)
    assert len(cache) == 4
    with pytest.raises(ValueError, match="causal"):
        attention(causal=False)(sample(1, 4), cache=KeyValueCache())
    with pytest.raises(ValueError, match="last i of j"):
        module(sample(1, 4), sample(1, 3))


def test_l8_in_a_model_of_ones_own_trained_at_64_and_read_at_80() -> None:
    """Copying the token before: the loss at the last trained token and at token 80 must both have fallen."""
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = torch.nn.Embedding(8, 32), torch.nn.Linear(32, 8)
            self.first, self.second = AlibiMultiHeadAttention(4, 32, 0.1), AlibiMultiHeadAttention(heads=4, d_model=32)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (length, B)
            x = self.tokens(ids)
            x = x + self.first(query=x, key=x, value=x)
            return self.head(x + self.second(x))

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def losses(length: int) -> torch.Tensor:
        ids = torch.randint(8, (length, 32))
        loss = torch.nn.functional.cross_entropy(model(ids)[1:].flatten(0, 1), ids[:-1].flatten(), reduction="none")
        return loss.view(length - 1, -1).mean(1)

    for _ in range(150):
        optimizer.zero_grad()
        losses(64).mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        at = losses(80)
    assert at[0] < 0.5 and at[62] < 0.5 and at[78] < 0.5  # chance is ln 8 = 2.08


def test_l9_softmax_cannot_tell_the_key_only_form_under_a_causal_mask() -> None:
    from alibi_cli import AlibiPositionalBias

    scores = torch.randn(6, 40, 40)
    hidden = torch.ones(40, 40).triu(1).bool()
    by_key, by_distance = scores + get_biases(6, 40)[:, None], scores + AlibiPositionalBias(6)(40, 40)
    a, b = (s.masked_fill(hidden, -torch.inf).softmax(-1) for s in (by_key, by_distance))
    assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(by_key.softmax(-1), by_distance.softmax(-1), atol=1e-2)  # without the mask it can


def test_l3_arguments_that_do_not_fit() -> None:
    for arguments, says in (
        ((3, 8), "multiple"),
        ((0, 8), "positive"),
        ((2, 0), "multiple"),
        ((2, 8, 1.5), "dropout_prob"),
    ):
        with pytest.raises(ValueError, match=says):
            AlibiMultiHeadAttention(*arguments)
    with pytest.raises(ValueError, match="slopes"):
        AlibiMultiHeadAttention(2, 8, slopes=[0.5])


def test_l3_dropout_only_while_training() -> None:
    module = AlibiMultiHeadAttention(2, 8, 0.5)
    x = torch.randn(30, 1, 8)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
