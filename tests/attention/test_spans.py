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

import alibi_cli.runtime.alibi_blocks as runtime
import alibi_cli.runtime.alibi_distances as alibi_distances_module
from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.runtime.alibi_attention import Compact, alibi_attention, alibi_distances
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
    """The arguments of the mask function: a rule, sinks, rows of a batch padded left, right or inside, and a cache: queries after some
    keys, the first of which may have been dropped, or keys in excess of what a static cache holds. And beside them, for the oracle, what
    the rule says in plain Python: sees(row, query, key) and document(row, key)."""
    batch, queries, past = draw(st.integers(1, 3)), draw(st.integers(8, 30)), draw(st.integers(0, 12))
    total, size = queries + past, draw(st.integers(2, 20))
    packs = documents(draw, batch, total)
    names = packs.tolist()
    one = lambda b, j: 0  # noqa: E731
    rules = {
        "causal": (causal_mask_function, lambda b, i, j: j <= i, one),
        "both sides": (bidirectional_mask_function, lambda b, i, j: True, one),
        "window": (sliding_window_causal_mask_function(size), lambda b, i, j: i - size < j <= i, one),
        "window on both sides": (
            sliding_window_bidirectional_mask_function(size), lambda b, i, j: abs(i - j) <= size, one,
        ),
        "chunks": (  # a chunk cannot be told from a document
            chunked_causal_mask_function(size, torch.zeros(batch, dtype=torch.int)),
            lambda b, i, j: i // size == j // size and j <= i,
            lambda b, j: j // size,
        ),
        "packed": (
            and_masks(causal_mask_function, packed_sequence_mask_function(packs)),
            lambda b, i, j: names[b][i] == names[b][j] and j <= i,
            lambda b, j: names[b][j],
        ),
        "packed, both sides": (
            packed_sequence_mask_function(packs), lambda b, i, j: names[b][i] == names[b][j], lambda b, j: names[b][j],
        ),
        "own key hidden": (lambda b, h, i, j: j < i, lambda b, i, j: j < i, one),
    }  # fmt: skip
    rule, sees, document = rules[draw(st.sampled_from(list(rules)))]
    padding = torch.ones(batch, total, dtype=torch.bool)
    for row in range(batch):
        begin, length = draw(st.integers(0, total - 1)), draw(st.integers(0, total - 1))
        hidden = {"left": slice(0, length), "right": slice(total - length, total), "inside": slice(begin, begin + 3)}
        if (where := draw(st.sampled_from(["nowhere", *hidden]))) != "nowhere":
            padding[row, hidden[where]] = False
    dropped, room = draw(st.integers(0, past)), draw(st.sampled_from([0, 0, 9]))
    return dict(
        batch_size=batch,
        q_length=queries,
        kv_length=total - dropped + room,
        q_offset=torch.tensor(past) if room else past,
        kv_offset=dropped,
        mask_function=rule,
        attention_mask=padding,
        config=SimpleNamespace(alibi_sinks=draw(st.integers(0, 9))),
        use_vmap=draw(st.booleans()),
    ), (sees, document)


def documents(draw, batch, keys):
    starts = [draw(st.lists(st.integers(1, keys - 1), max_size=4)) for _ in range(batch)]
    return torch.stack(
        [torch.zeros(keys).index_fill_(0, torch.tensor(s, dtype=torch.long), 1).cumsum(0) for s in starts]
    )


def bias_by_loops(mask, sees, document):
    """(B, 3, Q, K) float64, -inf where hidden: a key at a time, counting the tokens before it that are of its document."""
    padding, sinks, offset = mask["attention_mask"].tolist(), mask["config"].alibi_sinks, mask["kv_offset"]
    queries, keys, first = mask["q_length"], mask["kv_length"], int(mask["q_offset"])
    distance = [[[torch.inf] * keys for _ in range(queries)] for _ in padding]
    for b, tokens in enumerate(padding):
        for j in range(offset, min(offset + keys, len(tokens))):
            earlier = sum(tokens[t] and document(b, t) == document(b, j) for t in range(j))
            for i in range(first, first + queries):
                if tokens[j] and sees(b, i, j):
                    distance[b][i - first][j - offset] = 0 if earlier < sinks else abs(i - j)
    slopes = torch.tensor(LAYER.alibi_slopes, dtype=torch.float64)
    return -slopes[:, None, None] * torch.tensor(distance, dtype=torch.float64)[:, None]


def difference(mask, bias, requires_grad=False):
    """Largest difference to attention with the oracle's bias, in float64, over the queries that see something; and that of the
    gradients. Of what the mask function returns and, if that is in blocks, of its entries."""
    found = alibi_distances(**mask)
    if mask["q_length"] > alibi_distances_module.BLOCK and isinstance(mask["q_offset"], int):
        assert isinstance(found, Compact)
    batch, keys = mask["batch_size"], mask["kv_length"]
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(batch, 3, n, 8, generator=generator, dtype=torch.float64, requires_grad=requires_grad)
        for n in (mask["q_length"], keys, keys)
    ]
    sees = bias[:, 0].isfinite().any(-1)  # (B, Q)
    query, key, value = tensors
    weights = (query @ key.mT / 8**0.5 + bias).masked_fill(~sees[:, None, :, None], 0).softmax(-1)
    outputs = [(weights @ value).transpose(1, 2)]
    for distances in (found, found.entries()) if isinstance(found, Compact) else (found,):
        outputs.append(alibi_attention(LAYER, *tensors, distances)[0])
        assert outputs[-1].isfinite().all()
    gradients = [torch.autograd.grad(out[sees].square().sum(), tensors) for out in outputs if requires_grad]
    exact, *others = [[out[sees], *(gradients[n] if requires_grad else ())] for n, out in enumerate(outputs)]
    pairs = [pair for other in others for pair in zip(exact, other, strict=True)]
    return max((a - b).abs().amax().item() if a.numel() else 0.0 for a, b in pairs)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(masks(), st.booleans())
def test_every_mask_gives_what_loops_over_rows_and_keys_give(drawn, requires_grad: bool) -> None:
    mask, rule = drawn
    assert difference(mask, bias_by_loops(mask, *rule), requires_grad) <= 1e-12


LEFT, RIGHT = torch.ones(2, 2, 30, dtype=torch.bool)
LEFT[1, :10] = RIGHT[1, 20:] = False
ONE = lambda b, j: 0  # noqa: E731
PACKS = torch.tensor([[0] * 4 + [1] * 26, [0] * 17 + [1] * 13])
PACKED = and_masks(causal_mask_function, packed_sequence_mask_function(PACKS))
CAUSAL = (LEFT, causal_mask_function, lambda b, i, j: j <= i, ONE)
OF_PACKS = (LEFT, PACKED, lambda b, i, j: PACKS[b, i] == PACKS[b, j] and j <= i, lambda b, j: PACKS[b, j])
FAR = lambda b, h, i, j: (j < 5) | (j == 29)  # noqa: E731
WINDOW = (LEFT, sliding_window_causal_mask_function(5), lambda b, i, j: i - 5 < j <= i, ONE)
WRONG = {  # what is wrong: (padding, rule, what the rule says, what a document is), sinks
    "first key": (CAUSAL, 0),
    "last key": (CAUSAL, 0),
    "rows": (CAUSAL, 0),
    "mask": (WINDOW, 0),
    # queries that only see keys beyond the reach of what would be their own
    "own": ((LEFT, FAR, lambda b, i, j: j < 5 or j == 29, lambda b, j: 0 if j < 6 else j), 0),
    "no sinks": (CAUSAL, 3),
    "one sink more": (CAUSAL, 3),
    "one sink more, right padding": ((RIGHT, *CAUSAL[1:]), 3),
    "one sink more, both sides": ((LEFT, bidirectional_mask_function, lambda b, i, j: True, ONE), 3),
    "other places": (OF_PACKS, 3),
    "padding counts": (CAUSAL, 3),
    "one document": (OF_PACKS, 3),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_span_or_sink_is_noticed(wrong: str, monkeypatch) -> None:
    (padding, rule, sees, document), sinks = WRONG[wrong]
    mask = dict(batch_size=2, q_length=30, kv_length=30, q_offset=0, kv_offset=0, mask_function=rule)
    mask |= dict(attention_mask=padding, config=SimpleNamespace(alibi_sinks=sinks))
    correct, bias = alibi_distances_module._spans, bias_by_loops(mask, sees, document)
    assert difference(mask, bias) <= 1e-12

    def change(rows, begin, end, seen, own, sinks):
        gaps = isinstance(seen, torch.Tensor)
        if wrong == "first key" and end - begin > 1 and not gaps:
            begin += 1
        if wrong == "last key" and end - begin > 1 and not gaps:
            end -= 1
        if wrong == "rows":
            rows = slice(0, 1) if rows == slice(1, 2) else rows
        if wrong == "mask" and gaps:
            seen = True
        if wrong == "no sinks":
            sinks = 0
        if wrong.startswith("one sink more") and not gaps:
            sinks += 1
        if wrong == "other places" and gaps and isinstance(sinks, torch.Tensor):
            sinks = sinks.roll(1)
        return rows, begin, end, seen, own or (wrong == "own" and end - begin == 30), sinks

    def spans(*arguments):
        found, batch = correct(*arguments)
        return [[change(*part) for part in parts] for parts in found], batch

    first_tokens = alibi_distances_module.first_tokens
    monkeypatch.setattr(alibi_distances_module, "_spans", spans)
    if wrong == "padding counts":
        wrong_tokens = lambda n, b, k, o, function, padding, *rest: first_tokens(n, b, k, o, function, None, *rest)  # noqa: E731
        monkeypatch.setattr(alibi_distances_module, "first_tokens", wrong_tokens)
    if wrong == "one document":
        wrong_tokens = lambda n, b, k, o, function, *rest: first_tokens(n, b, k, o, None, *rest)  # noqa: E731
        monkeypatch.setattr(alibi_distances_module, "first_tokens", wrong_tokens)
    assert difference(mask, bias) > 1e-6


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
    for name in ("padding", "window", "padding and sinks", "window and sinks", "sinks"):
        peaks = []
        for length in (512, 1024, 2048):
            mask = dict(batch_size=2, q_length=length, kv_length=length)
            mask["config"] = SimpleNamespace(alibi_sinks=4 if "sinks" in name else 0)
            if "padding" in name:
                mask["attention_mask"] = padding(length)
            if "window" in name:
                mask["mask_function"] = sliding_window_causal_mask_function(100)
            q, k, v = torch.randn(3, 2, 3, length, 8)
            with torch.no_grad():
                peaks.append(peak_of_allocations(lambda m=mask: alibi_attention(LAYER, q, k, v, alibi_distances(**m))))  # noqa: B023
        assert peaks[2] - peaks[1] <= 2.2 * (peaks[1] - peaks[0]), name
        assert peaks[2] < 2 * 3 * 2048 * 2048 * 4 / 10, name


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "bert", "gpt_oss"])
@pytest.mark.parametrize("sinks", [0, 3])
def test_models_with_padding_and_windows(family: str, sinks: int, monkeypatch) -> None:
    model = tiny_model(family).eval()
    apply_alibi(model, max_sequence_length=64, sinks=sinks)
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
