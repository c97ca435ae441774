"""Padding, packing and windows, a block of queries at a time: the same as the materialised bias, and memory linear in the length."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    packed_sequence_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

import alibi_cli.runtime.alibi_attention as runtime
import alibi_cli.runtime.alibi_distances as alibi_distances_module
from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.runtime.alibi_attention import HIDDEN, Compact, alibi_attention, alibi_distances
from tests.models import tiny_model

LAYER = SimpleNamespace(alibi_slopes=[5.0, 0.2, 0.01], training=False)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alibi_distances_module, "BLOCK", 7)
        patch.setattr(runtime, "STEP", 4)
        yield


@st.composite
def masks(draw):
    """The arguments of the mask function: a rule, rows of a batch padded left, right or inside, queries after a cache."""
    batch, queries, past = draw(st.integers(1, 3)), draw(st.integers(8, 30)), draw(st.integers(0, 12))
    keys = queries + past
    rules = {
        "causal": lambda: causal_mask_function,
        "both sides": lambda: bidirectional_mask_function,
        "window": lambda: sliding_window_causal_mask_function(draw(st.integers(1, 20))),
        "window on both sides": lambda: sliding_window_bidirectional_mask_function(draw(st.integers(1, 20))),
        "chunks": lambda: chunked_causal_mask_function(draw(st.integers(2, 20)), torch.zeros(batch, dtype=torch.int)),
        "packed": lambda: and_masks(causal_mask_function, packed_sequence_mask_function(documents(draw, batch, keys))),
        "own key hidden": lambda: lambda b, h, i, j: j < i,
    }
    padding = torch.ones(batch, keys, dtype=torch.bool)
    for row in range(batch):
        begin, length = draw(st.integers(0, keys - 1)), draw(st.integers(0, keys - 1))
        hidden = {"left": slice(0, length), "right": slice(keys - length, keys), "inside": slice(begin, begin + 3)}
        if (where := draw(st.sampled_from(["nowhere", *hidden]))) != "nowhere":
            padding[row, hidden[where]] = False
    return dict(
        batch_size=batch,
        q_length=queries,
        kv_length=keys,
        q_offset=past,
        mask_function=rules[draw(st.sampled_from(list(rules)))](),
        attention_mask=padding,
    )


def documents(draw, batch, keys):
    starts = [draw(st.lists(st.integers(1, keys - 1), max_size=4)) for _ in range(batch)]
    return torch.stack(
        [torch.zeros(keys).index_fill_(0, torch.tensor(s, dtype=torch.long), 1).cumsum(0) for s in starts]
    )


def difference(mask, requires_grad=False):
    """Largest difference to the materialised bias, in float64, over the queries that see something; and that of the gradients."""
    compact = alibi_distances(**mask)
    assert isinstance(compact, Compact)
    whole = compact.entries()
    assert whole.shape == compact.shape
    generator = torch.Generator().manual_seed(0)
    lengths = mask["q_length"], mask["kv_length"], mask["kv_length"]
    tensors = [
        torch.randn(mask["batch_size"], 3, n, 8, generator=generator, dtype=torch.float64, requires_grad=requires_grad)
        for n in lengths
    ]
    sees = (whole != HIDDEN).any(-1)[:, 0].expand(mask["batch_size"], -1)  # (B, Q)
    ours, theirs = (alibi_attention(LAYER, *tensors, distances)[0] for distances in (compact, whole))
    assert ours.isfinite().all()
    found = [(ours[sees] - theirs[sees]).abs()]
    if requires_grad:
        pairs = zip(*(torch.autograd.grad(out[sees].square().sum(), tensors) for out in (ours, theirs)), strict=True)
        found += [(a - b).abs() for a, b in pairs]
    return max(part.amax().item() if part.numel() else 0.0 for part in found)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(masks(), st.booleans())
def test_every_mask_gives_what_the_materialised_bias_gives(mask, requires_grad: bool) -> None:
    assert difference(mask, requires_grad) <= 1e-12


@pytest.mark.parametrize("wrong", ["first key", "last key", "rows", "mask", "own"])
def test_a_wrong_span_is_noticed(wrong: str, monkeypatch) -> None:
    correct = alibi_distances_module._spans

    def spans(*arguments):
        found, batch = correct(*arguments)
        return [[change(*part) for part in parts] for parts in found], batch

    def change(rows, begin, end, seen, own, sinks):
        if wrong == "first key" and end - begin > 1 and not isinstance(seen, torch.Tensor):
            begin += 1
        if wrong == "last key" and end - begin > 1 and not isinstance(seen, torch.Tensor):
            end -= 1
        if wrong == "rows":
            rows = slice(0, 1) if rows == slice(1, 2) else rows
        if wrong == "mask" and isinstance(seen, torch.Tensor):
            seen = True
        return rows, begin, end, seen, own or (wrong == "own" and end - begin == 30), sinks

    padding = torch.ones(2, 30, dtype=torch.bool)
    padding[1, :10] = False
    mask = dict(batch_size=2, q_length=30, kv_length=30, mask_function=causal_mask_function, attention_mask=padding)
    if wrong == "mask":
        mask["mask_function"] = sliding_window_causal_mask_function(5)
    if wrong == "own":  # queries that only see keys beyond the reach of what would be their own
        mask["mask_function"] = lambda b, h, i, j: (j < 5) | (j == 29)
    assert difference(mask) <= 1e-12
    monkeypatch.setattr(alibi_distances_module, "_spans", spans)
    assert difference(mask) > 1e-6


def test_rows_that_see_the_same_keys_share_a_view_and_windows_keep_only_their_edges() -> None:
    padding = torch.ones(4, 28, dtype=torch.bool)
    padding[2:, 21:] = False
    spans = alibi_distances(4, 28, 28, attention_mask=padding).spans
    assert spans[1:] == [[(slice(0, 4), 0, end, True, True, 0)] for end in (21, 14, 7)]
    assert spans[0] == [(slice(0, 2), 0, 28, True, True, 0), (slice(2, 4), 0, 21, True, False, 0)]
    window = alibi_distances(4, 28, 28, mask_function=sliding_window_causal_mask_function(5)).spans
    assert [part[1:3] for (part,) in window] == [(17, 28), (10, 21), (3, 14), (0, 7)]


def test_memory_is_linear_in_the_length(monkeypatch) -> None:
    monkeypatch.setattr(alibi_distances_module, "BLOCK", 64)
    padding = lambda n: torch.arange(n)[None] >= torch.tensor([[0], [n // 3]])  # noqa: E731
    for name in ("padding", "window"):
        peaks = []
        for length in (512, 1024, 2048):
            mask = dict(batch_size=2, q_length=length, kv_length=length)
            if name == "padding":
                mask["attention_mask"] = padding(length)
            else:
                mask["mask_function"] = sliding_window_causal_mask_function(100)
            q, k, v = torch.randn(3, 2, 3, length, 8)
            with torch.no_grad():
                peaks.append(peak_of_allocations(lambda m=mask: alibi_attention(LAYER, q, k, v, alibi_distances(**m))))  # noqa: B023
        assert peaks[2] - peaks[1] <= 2.2 * (peaks[1] - peaks[0]), name
        assert peaks[2] < 2 * 3 * 2048 * 2048 * 4 / 10, name


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "bert", "gpt_oss"])
def test_models_with_padding_and_windows(family: str, monkeypatch) -> None:
    model = tiny_model(family).eval()
    apply_alibi(model, max_sequence_length=64)
    tokens = torch.randint(5, 50, (2, 30), generator=torch.Generator().manual_seed(1))
    padding = torch.ones_like(tokens)
    padding[0, :9] = 0
    found = []
    for materialised in (False, True):
        if materialised:
            monkeypatch.setattr(alibi_distances_module, "BLOCK", 64)
        logits = model(tokens, attention_mask=padding).logits[padding.bool()]
        model.zero_grad()
        logits.square().mean().backward()
        found.append([logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])])
        if model.can_generate():
            options = dict(max_new_tokens=9, do_sample=False, pad_token_id=0)
            found[-1].append(model.generate(tokens, attention_mask=padding, **options))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())
