"""Rotary frequencies: losses that do not depend on what was scored before, and frequencies computed by hand from the papers."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from alibi_cli.evaluation import scoring
from alibi_cli.evaluation.processes import Processes
from alibi_cli.evaluation.protocols import Window
from alibi_cli.evaluation.rotation import forget_lengths, no_stretching, stretched
from alibi_cli.evaluation.scoring import Scorer
from alibi_cli.text.tokens import TokenizedDocument
from tests.evaluation.test_processes import launch, same
from tests.fuzzing import THOROUGH
from tests.models import OLD_MAX, sample_tokens, save_tiny, tiny_model
from tests.python import python

THETA, WIDTH = 10000.0, 8
PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": OLD_MAX},
    "longrope": {
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": OLD_MAX // 2,
        "factor": 2.0,
    },
    "llama3": {
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": OLD_MAX // 2,
    },
    "proportional": {"factor": 2.0},
}
SIZES = (
    60,
    9,
    30,
    OLD_MAX,
    OLD_MAX + 1,
    60,
    9,
    45,
)  # beyond, within and at the trained length, the longest first and last


def rotary(kind: str, family: str = "llama") -> Any:
    return tiny_model(family, rope_parameters={"rope_type": kind, "rope_theta": THETA, **PARAMETERS[kind]})


def documents() -> tuple[list[TokenizedDocument], list[Window]]:
    docs = [TokenizedDocument(f"d{i}", sample_tokens(1, n, seed=i)[0].numpy(), None) for i, n in enumerate(SIZES)]
    return docs, [Window(i, 0, n, np.arange(1, n)) for i, n in enumerate(SIZES)]


def alone(kind: str, family: str = "llama") -> list[np.ndarray]:
    """The losses of each document from a model that has seen nothing else, in one plain forward pass."""
    found = []
    for document in documents()[0]:
        ids = torch.from_numpy(document.ids)[None]
        with torch.no_grad():
            logits = rotary(kind, family)(input_ids=ids[:, :-1], use_cache=False).logits[0].double()
        found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy())
    return found


def test_every_rope_type_of_transformers_is_tried() -> None:
    assert set(PARAMETERS) == {"default", *ROPE_INIT_FUNCTIONS}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_losses_depend_on_nothing_that_was_scored_before(kind: str) -> None:
    docs, windows = documents()
    expected = alone(kind)
    for batch_size in (1, 2, 8):
        scorer = Scorer(rotary(kind), [], [], batch_size=batch_size)
        for seed in range(3):
            order = random.Random(seed).sample(range(len(windows)), len(windows))
            scores = scorer.score(docs, [windows[index] for index in order])
            for index, score in zip(order, scores, strict=True):
                assert np.abs(score - expected[index]).max() <= 1e-9, (batch_size, seed, index)


@torch.no_grad()
@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_order_of_batches_and_who_scores_them_changes_nothing(kind: str) -> None:
    """Batches come the longest first; here they come in other orders, and half of them, as one of two processes sees them."""
    docs, windows = documents()
    scorer, expected = Scorer(rotary(kind), [], [], batch_size=2), alone(kind)
    batches = scorer._batches(windows)
    for dealt in (batches[::-1], batches[::2], batches[1::2]):
        for index, score in (scorer._score_batches(docs, windows, dealt, lambda n: None) or {}).items():
            assert np.abs(score - expected[index]).max() <= 1e-9
    assert Processes(1, 2, 1).share(batches) == batches[1::2]


def test_dynamic_frequencies_do_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the remedy the tests above would fail for this rope type, and for no other."""
    monkeypatch.setattr(scoring, "forget_lengths", lambda model: None)
    docs, windows = documents()
    for kind in PARAMETERS:
        scores = Scorer(rotary(kind), [], []).score(docs, windows)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(scores, alone(kind), strict=True))
        assert worst > 1e-3 if kind == "dynamic" else worst <= 1e-9, (kind, worst)


def test_frequencies_of_each_type_of_layer_are_forgotten_too() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": THETA, "factor": 2.0}
    plain = {"rope_type": "default", "rope_theta": THETA}
    model = tiny_model("gemma3", rope_parameters={"full_attention": dynamic, "sliding_attention": plain})
    short, long = sample_tokens(1, OLD_MAX), sample_tokens(1, 60)
    with torch.no_grad():
        expected = model(input_ids=short, use_cache=False).logits
        model(input_ids=long, use_cache=False)
        remembered = model(input_ids=short, use_cache=False).logits
        forget_lengths(model)
        forgotten = model(input_ids=short, use_cache=False).logits
    assert (remembered - expected).abs().max() > 1e-6
    assert torch.equal(forgotten, expected)


@pytest.mark.skipif(not THOROUGH, reason="in make fuzz: test_processes.py has two processes in make test")
def test_two_processes_score_a_dynamic_rotation_as_one_does(tmp_path: Path) -> None:
    parameters = {"rope_type": "dynamic", "rope_theta": THETA, "factor": 2.0}
    model = save_tiny("llama", tmp_path / "model", max_position_embeddings=64, rope_parameters=parameters)
    texts = []
    for name, size in (("long", 300), ("short", 70), ("third", 190)):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(random.Random(size).choices("abcdef ghij.", k=size)))
        texts += ["--text", str(path)]
    command = ["-m", "alibi_cli", "eval", str(model), "--lengths", "128", "--protocol", "non-overlapping"]
    for count, run in ((1, python), (2, launch)):
        result = run(*command, "--batch-size", "1", *texts, "--output", str(tmp_path / f"{count}.json"))
        assert result.returncode == 0, result.stderr
    assert same(tmp_path / "1.json", tmp_path / "2.json")


def by_hand(
    kind: str, factor: float, length: int, theta: float = THETA, width: int = WIDTH
) -> tuple[list[float], float]:
    """(frequencies, scale of cos and sin) after the papers, in plain floats; `length` is that of the sequence."""
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if kind == "linear":  # Chen et al. 2023, arXiv 2306.15595: positions m / s
        return [frequency / factor for frequency in plain], 1.0
    if kind == "dynamic":  # base * (s l / L - (s - 1)) ^ (d / (d - 2)); NTK-aware scaling by the length at hand
        base = theta * (factor * max(length, OLD_MAX) / OLD_MAX - (factor - 1)) ** (width / (width - 2))
        return [base ** (-2 * i / width) for i in range(width // 2)], 1.0
    # YaRN, arXiv 2309.00071, "NTK-by-parts": a dimension of more than 32 turns within L stays, one of less than 1 is divided by s, linear
    # in the index between the (rounded) indices of the two; cos and sin times 0.1 ln s + 1.
    turns = [width * math.log(OLD_MAX / (r * 2 * math.pi)) / (2 * math.log(theta)) for r in (32, 1)]
    low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), width - 1)
    ramp = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(width // 2)]
    mixed = [(1 - r) * frequency + r * frequency / factor for r, frequency in zip(ramp, plain, strict=True)]
    return mixed, 0.1 * math.log(factor) + 1


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
@pytest.mark.parametrize("length", [OLD_MAX + 5, 2 * OLD_MAX, 4 * OLD_MAX])
def test_frequencies_are_those_of_the_papers(kind: str, length: int) -> None:
    model = tiny_model("llama")
    factor = length / OLD_MAX
    positions, states = torch.arange(length)[None], torch.zeros(1, length, 48, dtype=torch.float64)
    own = model.model.rotary_emb
    before = own(states, positions)[0]
    frequencies, scale = by_hand(kind, factor, length)
    expected = np.cos(np.outer(np.arange(length), frequencies)) * scale
    with stretched(model, kind, factor, OLD_MAX):
        cos, sin = model.model.rotary_emb(states, positions)
        long = model.model.rotary_emb(states.repeat(1, 3, 1), torch.arange(3 * length)[None])
        again = model.model.rotary_emb(states, positions)[0]
    assert np.abs(cos[0, :, : WIDTH // 2].numpy() - expected).max() <= 1e-4
    assert np.abs(sin[0, :, : WIDTH // 2].numpy() / scale).max() <= 1 + 1e-6
    assert torch.equal(cos, again) and long[0].shape[1] == 3 * length  # a longer sequence in between is forgotten
    assert model.model.rotary_emb is own and torch.equal(own(states, positions)[0], before)
    # The controls: other factors, and the other rope types, give other frequencies.
    for other in ("linear", "dynamic", "yarn"):
        for wrong in {factor, factor + 0.5} - ({factor} if other == kind else set()):
            others, scale = by_hand(other, wrong, length)
            assert np.abs(np.cos(np.outer(np.arange(length), others)) * scale - expected).max() > 1e-2


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi", "stablelm", "gemma2", "falcon", "qwen2", "smollm3"])
def test_a_stretched_model_is_one_that_was_loaded_so(kind: str, family: str) -> None:
    """Against a model whose config has the rope_parameters from the start, weights being the same."""
    length, factor = 2 * OLD_MAX, 2.0
    wide = {"gpt_neox": dict(hidden_size=96), "stablelm": dict(hidden_size=96)}.get(
        family, {}
    )  # a quarter of it rotates
    model, ids = tiny_model(family, **wide), sample_tokens(2, length)
    new = {**model.config.rope_parameters, "rope_type": kind, "factor": factor}
    if kind == "yarn":
        new["original_max_position_embeddings"] = OLD_MAX
    loaded = tiny_model(family, rope_parameters=new, **wide)
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
        expected = loaded(input_ids=ids, use_cache=False).logits
        with stretched(model, kind, factor, OLD_MAX):
            found = model(input_ids=ids, use_cache=False).logits
        after = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(found, expected)
    assert (found - plain).abs().max() > 1e-3 and torch.equal(after, plain)


def test_layers_with_a_window_of_their_own_keep_their_rotation() -> None:
    model = tiny_model("gemma3")
    with stretched(model, "linear", 2.0, OLD_MAX):
        rotation = model.model.rotary_emb
        assert rotation.rope_type == {"full_attention": "linear", "sliding_attention": "default"}
        own = tiny_model("gemma3").model.rotary_emb
        assert torch.equal(rotation.sliding_attention_inv_freq, own.sliding_attention_inv_freq)
        assert torch.allclose(2 * rotation.full_attention_inv_freq, own.full_attention_inv_freq)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("gpt2", "no rotary"),
        ("gptj", "no rotary"),
        ("esm", "no rotary"),
        ("llama-yarn", "rope_type yarn"),
        ("phi3", "longrope"),
        ("llama", None),
    ],
)
def test_what_cannot_be_stretched_says_why(family: str, says: str | None) -> None:
    reason = no_stretching(tiny_model(family))
    assert reason is None if says is None else says in reason
