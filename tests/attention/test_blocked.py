"""Attention over one unbroken sequence: as exact as the materialised bias, at any length and slope, and nothing of size Q x K is made."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.runtime.alibi_attention import HIDDEN, Compact, alibi_attention, alibi_distances
from tests.attention.parity import slopes_for
from tests.models import tiny_model

STEEP, TINY = [16.0, 4.0, 2.5], [1e-3, 1e-5, 1e-7]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def layer(slopes, **settings):
    return SimpleNamespace(alibi_slopes=list(slopes), training=False, **settings)


def qkv(queries, keys=None, heads=3, width=8, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(5)
    shapes = ((1, heads, queries, width), *[(1, heads, keys or queries, width)] * 2)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (scale * q).to(dtype), (scale * k).to(dtype), v.to(dtype)


def rows_by_definition(q, k, v, slopes, rows, causal=True):
    """(B, rows, H, D) float64: softmax(q.k / sqrt(D) - m |i - j|) v of some queries, which are among the last Q of K positions."""
    q, k, v = (tensor.double() for tensor in (q, k, v))
    i, j = torch.tensor(rows)[:, None] + k.shape[2] - q.shape[2], torch.arange(k.shape[2])
    slopes = torch.as_tensor(slopes, dtype=torch.float64)
    scores = q[:, :, rows] @ k.mT / q.shape[-1] ** 0.5 - slopes[:, None, None] * (i - j).abs()
    if causal:
        scores = scores.masked_fill(j > i, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("slopes", [slopes_for(3), STEEP, TINY], ids=["press", "steep", "tiny"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [True, False])
def test_error_against_float64_does_not_grow_with_the_length(causal, dtype, slopes) -> None:
    for queries, keys in ((257, 257), (5, 8192), (1, 70_000)) + (((8192, 8192),) if dtype == torch.float32 else ()):
        q, k, v = qkv(queries, keys, dtype=dtype)
        rows = sorted({0, queries // 3, queries // 2, queries - 1})
        expected = rows_by_definition(q, k, v, slopes, rows, causal)
        out = alibi_attention(layer(slopes), q, k, v, Compact.of(queries, keys, causal, "cpu"))[0][:, rows]
        assert out.dtype == dtype and (out - expected).abs().max() <= TOLERANCE[dtype], (queries, keys)
        other = rows_by_definition(q, k, v, [1.3 * m for m in slopes], rows, causal)
        if slopes != TINY:
            assert (expected - other).abs().max() > TOLERANCE[dtype], "a wrong slope would not be noticed"


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_equal_those_of_the_materialised_bias(causal) -> None:
    slopes, gradients = slopes_for(3), []
    for dtype, dense in ((torch.float64, True), (torch.float32, False), (torch.float32, True)):
        q, k, v = (tensor.requires_grad_() for tensor in qkv(600, dtype=dtype))
        distances = Compact.of(600, 600, causal, "cpu")
        out, _ = alibi_attention(layer(slopes), q, k, v, distances.entries() if dense else distances)
        gradients.append(torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), (q, k, v)))
    for exact, ours, dense in zip(*gradients, strict=True):
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()
        assert (ours - exact).abs().max() <= 3 * (dense - exact).abs().max()


def test_soft_caps_and_sinks_in_blocks_equal_the_whole() -> None:
    q, k, v = qkv(600)
    for options in ({"softcap": 5.0}, {"s_aux": torch.tensor([1.0, -2.0, 3.0])}, {"scaling": 1.0}):
        distances = alibi_distances(1, 600, 600)
        whole, _ = alibi_attention(layer(STEEP), q, k, v, distances.entries(), **options)
        assert (alibi_attention(layer(STEEP), q, k, v, distances, **options)[0] - whole).abs().max() <= 2e-6
        assert (alibi_attention(layer(STEEP), q, k, v, distances)[0] - whole).abs().max() > 1e-3


def test_memory_is_linear_in_the_length_and_the_flash_kernel_runs() -> None:
    peaks = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error if it refused the view
        for length in (1024, 4096, 8192):
            q, k, v = qkv(length, heads=3, width=16)
            run = lambda q=q, k=k, v=v, n=length: alibi_attention(layer(STEEP), q, k, v, alibi_distances(1, n, n))[0]  # noqa: E731
            peaks.append(peak_of_allocations(run))
    assert peaks[1] <= 6 * peaks[0] and peaks[2] <= 8 * peaks[0] and peaks[1] < 3 * 4096 * 4096 * 4 / 40


def test_what_touches_the_distances_gets_all_of_them() -> None:
    for causal in (True, False):
        compact = Compact.of(3, 5, causal, "cpu")
        i, j = torch.arange(2, 5)[:, None], torch.arange(5)
        entries = (-1 - (i - j).abs()).int()
        entries = (entries.masked_fill(j > i, HIDDEN) if causal else entries)[None, None]
        assert compact.shape == entries.shape and compact.dtype == torch.int32 and compact.dim() == 4
        for touch in (
            lambda t: t[..., :4],
            lambda t: t + 1,
            lambda t: torch.where(t < -2, HIDDEN, t),
            lambda t: torch.cat([t, t]),
            lambda t: t.to(torch.float64),
            lambda t: t.clone(),
            lambda t: t.contiguous(),
            lambda t: t.data,
            lambda t: t.mT,
        ):
            found = touch(compact)
            assert type(found) is torch.Tensor and torch.equal(found, touch(entries))


def test_anything_but_one_unbroken_sequence_is_materialised() -> None:
    ones = torch.ones(2, 6, dtype=torch.bool)
    gap = ones.clone()
    gap[1, 0] = False
    assert isinstance(alibi_distances(2, 6, 6, attention_mask=ones), Compact)
    assert isinstance(alibi_distances(2, 2, 6, q_offset=4, attention_mask=ones), Compact)
    for arguments in (
        {"attention_mask": gap},
        {"attention_mask": ones[:, :5]},  # shorter than the keys: the rest is padding
        {"mask_function": lambda b, h, q, k: (k <= q) & (q - k < 3)},
        {"q_offset": 1},  # a static cache: keys beyond the last query
        {"q_offset": torch.tensor(0)},
        {"kv_offset": 2},
    ):
        assert type(alibi_distances(2, 6, 6, **arguments)) is torch.Tensor


def test_models_give_the_same_logits_gradients_and_text_as_with_a_materialised_bias(monkeypatch) -> None:
    import alibi_cli.runtime.alibi_distances as runtime

    of = Compact.of
    for family in ("llama", "gpt_neo", "falcon", "gemma2", "gpt_oss", "bert", "openai-gpt"):
        model = tiny_model(family).eval()
        apply_alibi(model, max_sequence_length=64)
        tokens, found = torch.randint(5, 50, (2, 20), generator=torch.Generator().manual_seed(1)), []
        for dense in (False, True):
            made = (lambda *args, **options: of(*args, **options).entries()) if dense else of
            monkeypatch.setattr(Compact, "of", staticmethod(made))
            monkeypatch.setattr(runtime, "BLOCK", 7)
            model.zero_grad()
            logits = model(tokens, attention_mask=torch.ones_like(tokens)).logits
            logits.square().mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            found.append((logits.detach(), gradient))
            if model.can_generate():
                found[-1] += (model.generate(tokens, max_new_tokens=9, do_sample=False, pad_token_id=0),)
        for ours, theirs in zip(*found, strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max()), family


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    model = tiny_model("llama").train()
    apply_alibi(model, max_sequence_length=64)
    tokens, gradients = torch.arange(30)[None], []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6
