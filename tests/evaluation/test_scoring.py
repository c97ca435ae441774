"""The scorer against a plain loop over full logits in float64."""

import numpy as np
import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.evaluation.protocols import make_protocol
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.text.tokens import TokenizedDocument
from tests.models import COMMON, FAMILIES, is_encoder, sample_tokens, skeleton, tiny_model

MASK = 4
SCORED = [family for family in FAMILIES if not skeleton(family).config.is_encoder_decoder]


def documents(*sizes: int) -> list[TokenizedDocument]:
    return [TokenizedDocument(f"d{i}", sample_tokens(1, size, seed=i)[0].numpy(), None) for i, size in enumerate(sizes)]


def model_of(family: str, convert: bool = True):
    model = tiny_model(family, max_position_embeddings=64)
    if convert:
        apply_alibi(model, 256)
    return model


def naive(model, tokens: np.ndarray, position: int, start: int, prefix: list[int]) -> float:
    """-log p(token at position | tokens from start on), one forward for this one token."""
    context = torch.tensor([[*prefix, *tokens[start:position]]])
    with torch.no_grad():
        logits = model(input_ids=context).logits[0, -1].double()
    return float(torch.logsumexp(logits, -1) - logits[tokens[position]])


@pytest.mark.parametrize("family", [family for family in SCORED if not is_encoder(skeleton(family))])
@pytest.mark.parametrize("prefix", [[], [3]])
def test_sliding_by_one_equals_brute_force(family: str, prefix: list[int]) -> None:
    model, docs, length = model_of(family), documents(25, 9), 8
    protocol = make_protocol("sliding", (length,), stride=1, prefix=len(prefix))
    windows = protocol.windows(docs, length)
    scores = Scorer(model, prefix, []).score(docs, windows)
    room = length - len(prefix)
    for window, score in zip(windows, scores, strict=True):
        for target, nll in zip(window.targets, score, strict=True):
            expected = naive(model, docs[window.document].ids, int(target), max(0, int(target) - room), prefix)
            assert nll == pytest.approx(expected, abs=1e-9)


def test_a_window_as_long_as_the_text_equals_one_forward() -> None:
    model, docs = model_of("llama"), documents(40)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(docs[0].ids)[None]).logits[0, :-1].double()
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(docs[0].ids[1:]), reduction="none").numpy()
    for name, stride in (("non-overlapping", None), ("sliding", 17)):
        protocol = make_protocol(name, (64,), stride=stride)
        (score,) = Scorer(model, [], []).score(docs, protocol.windows(docs, 64))
        assert np.abs(score - expected).max() <= 1e-9


@pytest.mark.parametrize("name", ["fixed-target", "non-overlapping", "sliding"])
@pytest.mark.parametrize(("dtype", "per_token"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_batch_size_changes_nothing(name: str, dtype: torch.dtype, per_token: float) -> None:
    model, docs = model_of("gpt2").to(dtype), documents(70, 50, 33)
    protocol = make_protocol(name, (8, 16), stride=3 if name == "sliding" else None)
    windows = protocol.windows(docs, 16)
    results = [np.concatenate(Scorer(model, [], [], batch_size=size).score(docs, windows)) for size in (1, 3, 8, 64)]
    assert all(np.abs(result - results[0]).max() <= per_token for result in results)
    assert all(abs(result.mean() - results[0].mean()) <= 1e-6 for result in results)


@pytest.mark.parametrize("family", SCORED)
def test_a_chunked_head_equals_the_whole_one(family: str) -> None:
    """Heads differ: tied, biased, with a transform before them (BERT, RoBERTa); the chunks go through the model's own forward."""
    model, docs = model_of(family), documents(60, 41)
    masked = is_encoder(model)
    mask = MASK if masked else None
    protocol = make_protocol("non-overlapping", (16,), masked=masked)
    windows = protocol.windows(docs, 16)
    tiny = Scorer(model, [], [], mask, logits_per_chunk=3 * COMMON["vocab_size"]).score(docs, windows)
    whole = Scorer(model, [], [], mask).score(docs, windows)
    assert all(np.abs(a - b).max() <= 1e-12 for a, b in zip(tiny, whole, strict=True))
    window = windows[0]
    ids = docs[0].ids[window.begin : window.end].copy()
    if masked:
        ids[window.targets - window.begin] = MASK
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
    places = window.targets - window.begin - (0 if masked else 1)
    expected = torch.nn.functional.cross_entropy(
        logits[places], torch.from_numpy(docs[0].ids[window.targets]), reduction="none"
    ).numpy()
    assert np.abs(whole[0] - expected).max() <= 1e-9


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_fast", "gelu", "relu"])
def test_fused_activations_change_nothing(activation: str) -> None:
    model = tiny_model("gpt2", max_position_embeddings=64, activation_function=activation)
    docs = documents(40)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(docs[0].ids)[None]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(docs[0].ids[1:]), reduction="none").numpy()
    scorer, mlp, used = Scorer(model, [], []), model.transformer.h[0].mlp, []
    before = mlp.act
    mlp.register_forward_pre_hook(lambda module, _: used.append(module.act))
    (score,) = scorer.score(docs, make_protocol("non-overlapping", (64,)).windows(docs, 64))
    assert (used[0] is not before) == (activation in ("gelu_new", "gelu_fast")) and mlp.act is before
    assert np.abs(score - expected).max() <= 1e-9
    for block in model.transformer.h:
        block.mlp.act = torch.nn.ReLU() if activation != "relu" else torch.nn.GELU()
    (other,) = scorer.score(docs, make_protocol("non-overlapping", (64,)).windows(docs, 64))
    assert np.abs(other - expected).max() > 1e-3  # the control: activations matter


def test_masked_scoring_hides_exactly_the_scored_tokens() -> None:
    model, docs = model_of("bert"), documents(64)
    protocol = make_protocol("non-overlapping", (32,), prefix=1, suffix=1, masked=True)
    windows = protocol.windows(docs, 32)
    seen = []
    hook = model.bert.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(ids.clone() for ids in [kwargs.get("input_ids")] if ids is not None),
        with_kwargs=True,
    )
    Scorer(model, [0], [2], MASK, batch_size=1).score(docs, windows)
    hook.remove()
    bodies = [ids[0].tolist() for ids in seen if ids.shape[1] > 2 and ids[0, 0] == 0 and ids[0, -1] == 2]
    by_size = sorted(windows, key=lambda w: w.begin - w.end)
    for window, fed in zip(by_size, bodies, strict=False):
        text = docs[0].ids[window.begin : window.end].copy()
        text[window.targets - window.begin] = MASK
        assert fed == [0, *text.tolist(), 2]


def test_the_head_never_sees_more_than_a_chunk() -> None:
    model, docs = model_of("llama"), documents(60)
    sizes = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: sizes.append(output.numel()))
    scorer = Scorer(model, [], [], logits_per_chunk=5 * COMMON["vocab_size"])
    sizes.clear()
    scorer.score(docs, make_protocol("non-overlapping", (32,)).windows(docs, 32))
    hook.remove()
    assert sizes and max(sizes) <= 5 * COMMON["vocab_size"]


def test_out_of_memory_halves_the_batch_and_then_gives_up() -> None:
    model, docs = model_of("gpt2"), documents(65)
    windows = make_protocol("non-overlapping", (8,)).windows(docs, 8)
    expected = np.concatenate(Scorer(model, [], [], batch_size=8).score(docs, windows))
    scorer = Scorer(model, [], [], batch_size=8)
    sizes: list[int] = []
    scorer.halves.body.register_forward_pre_hook(
        lambda module, args, kwargs: limited_size(kwargs, sizes, 2), with_kwargs=True
    )
    result = np.concatenate(scorer.score(docs, windows))
    assert np.abs(result - expected).max() <= 1e-6 and sizes[:3] == [8, 4, 2]
    scorer.halves.body._forward_pre_hooks.clear()
    scorer.halves.body.register_forward_pre_hook(
        lambda module, args, kwargs: limited_size(kwargs, sizes, 0), with_kwargs=True
    )
    with pytest.raises(OutOfMemory):
        scorer.score(docs, windows)


def limited_size(kwargs: dict, sizes: list[int], fits: int) -> None:
    if "input_ids" in kwargs:  # a run of the body; the head's chunks arrive positionally
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. (injected)")


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model, docs = model_of("gpt2"), documents(20)
    windows = make_protocol("non-overlapping", (8,)).windows(docs, 8)
    scorer = Scorer(model, [], [])

    def fail(module, args, kwargs):
        raise RuntimeError("a bug")

    scorer.halves.body.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="a bug"):
        scorer.score(docs, windows)


def test_the_head_holds_the_hidden_states_and_one_chunk_of_logits() -> None:
    vocabulary, length, width, logits = 32_000, 4096, 48, 1 << 22
    model = tiny_model("llama", torch.float32, vocab_size=vocabulary, hidden_size=width)
    scorer = Scorer(model, [], [], logits_per_chunk=logits)
    states = torch.randn(length, width)
    targets = torch.arange(length)
    with torch.no_grad():
        peak = peak_of_allocations(lambda: scorer._losses(states, targets))
        expected = torch.nn.functional.cross_entropy(model.lm_head(states), targets, reduction="none")
        assert (scorer._losses(states, targets) - expected).abs().max() <= 1e-5
    held = 4 * (length * width + logits)
    assert peak + states.nbytes <= 1.2 * held, f"{peak / held:.2f}"
    assert 4 * length * vocabulary > 20 * held  # what all logits at once would take
