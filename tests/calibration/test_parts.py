"""The text of a calibration: three disjoint parts, what is learned from counted, what is reported never seen."""

from collections import Counter
from typing import Any

import pytest
import torch

from alibi_cli.calibration import added, distil, divergence
from alibi_cli.calibration import calibrate as run
from alibi_cli.calibration.calibrate import estimate, learn
from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.feed import lengths_of
from alibi_cli.calibration.twin import converted_twin, position_vectors
from alibi_cli.calibration.windows import Parts, make_windows
from alibi_cli.errors import AlibiError
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.settings.conversion import CalibrateSettings
from alibi_cli.text.documents import Text
from tests.calibration.helpers import random_windows
from tests.models import save_tiny, tiny_config

TRAINED = 24
WORDS = Text("words", [(f"d{i}", "".join(f"{i} {j * j} foxes. " for j in range(40 + 9 * i))) for i in range(30)])


class Counting:
    """A tokenizer of numbers, without an end of text: each word is its own token."""

    eos_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def build_inputs_with_special_tokens(self, ids: list[int]) -> list[int]:
        return ids


def numbered(*sizes: int) -> Text:
    """Documents of so many tokens, all of them different."""
    documents, first = [], 0
    for size in sizes:
        documents.append((str(first), " ".join(map(str, range(first, first + size)))))
        first += size
    return Text("numbers", documents)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sizes", [(500,), (7,) * 80, (100, 30, 9, 64, 8, 200)])
def test_no_token_is_in_two_windows_or_parts(sizes, whole, monkeypatch):
    monkeypatch.setattr("alibi_cli.calibration.windows.special_tokens", lambda tokenizer: ([], []))
    windows = make_windows(numbered(*sizes), Counting(), 8, 240, whole=whole)
    ids = windows.input_ids.flatten().tolist()
    assert windows.input_ids.shape == (30, 8) and len(set(ids)) == len(ids)
    parts = Parts.of(windows, 160)
    shapes = [tuple(part.input_ids.shape) for part in (parts.learned_from, parts.chosen_by, parts.reported_on)]
    assert shapes == [(20, 8), (5, 8), (5, 8)]
    seen = [set(part.input_ids.flatten().tolist()) for part in (parts.learned_from, parts.chosen_by, parts.reported_on)]
    assert len(seen[0] | seen[1] | seen[2]) == 240
    if whole:  # as long as there are documents that hold a window
        starts = torch.tensor([int(name) for name, _ in numbered(*sizes).documents])
        owner = torch.bucketize(windows.input_ids, starts, right=True)
        assert (owner == owner[:, :1]).all(1).sum() == min(30, sum(size // 8 for size in sizes))


def test_windows_of_many_documents_come_before_more_of_the_same(monkeypatch):
    monkeypatch.setattr("alibi_cli.calibration.windows.special_tokens", lambda tokenizer: ([], []))
    windows = make_windows(numbered(800, 800, 800), Counting(), 8, 8 * 12, whole=True)
    assert Counter((row[0] // 800).item() for row in windows.input_ids) == {0: 4, 1: 4, 2: 4}
    more = make_windows(numbered(800, 800, 800), Counting(), 8, 8 * 60, whole=True)
    assert len(more.input_ids) == 60


def test_three_windows_are_the_least():
    with pytest.raises(AlibiError, match="2 windows of 8 tokens; calibration needs three"):
        Parts.of(random_windows(2, 8), 8)
    parts = Parts.of(random_windows(3, 8), 1000)
    assert [len(part.input_ids) for part in (parts.learned_from, parts.chosen_by, parts.reported_on)] == [1, 1, 1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    info = describe(str(save_tiny("llama", tmp_path_factory.mktemp("m") / "llama")))
    return load_model(info), load_tokenizer(info)


@pytest.mark.parametrize("n_tokens", [30, 1000, 3000])
@pytest.mark.parametrize(
    ("policy", "method"), [("replace", "look-back"), ("replace", "distil"), ("add", "reach"), ("add", "distil")]
)
def test_calibration_tokens_are_what_is_fed_to_learn_from(policy, method, n_tokens, source, monkeypatch):
    monkeypatch.setattr(run, "HELD_OUT_TOKENS", 200)
    monkeypatch.setattr(distil, "PATIENCE", 100)  # all of them, not until it no longer helps
    learned, reached, observed = [], [], []
    backward, fit = Divergence.backward, added.fit_reach

    def counted(self: Divergence, input_ids: torch.Tensor, compared: torch.Tensor) -> float:
        learned.append(input_ids)
        return backward(self, input_ids, compared)

    def fitted(converted: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        reached.append(input_ids)
        return fit(converted, input_ids, *rest, **options)

    def looked(model: Any, batches: list[torch.Tensor], *rest: Any, **options: Any) -> Any:
        observed.extend(batches)
        return observe(model, batches, *rest, **options)

    monkeypatch.setattr(Divergence, "backward", counted)
    monkeypatch.setattr(added, "fit_reach", fitted)
    observe = run.calibrate_replaced.__globals__["observe_heads"]
    monkeypatch.setitem(run.calibrate_replaced.__globals__, "observe_heads", looked)
    settings = CalibrateSettings(policy=policy, calibrate=method, sinks=0, calibration_tokens=n_tokens)
    record = learn(*source, WORDS, TRAINED, settings).record
    fed = sum(ids.numel() for ids in [*learned, *reached])
    if method == "look-back":
        fed = sum(ids.numel() for ids in observed)
    longest = lengths_of(settings, TRAINED)[-1]
    least = (
        longest if method != "distil" or policy == "replace" else TRAINED * (1.5 + 1 + 2)
    )  # a window, or a first step
    assert record["tokens"] == fed
    assert max(n_tokens - 3 * longest, 0) < fed <= max(n_tokens, least)
    expected = estimate(0, source[0].config, settings, TRAINED)
    assert fed <= max(expected["tokens"], least) and expected["passes"] == max(n_tokens, longest) // longest


@pytest.mark.parametrize(("policy", "method"), [("replace", "look-back"), ("replace", "distil"), ("add", "distil")])
def test_what_is_reported_is_measured_on_the_third_part(policy, method, source, monkeypatch):
    monkeypatch.setattr(run, "HELD_OUT_TOKENS", 400)
    monkeypatch.setattr(divergence, "TOKENS_PER_BATCH", 200)
    model, tokenizer = source
    settings = CalibrateSettings(
        policy=policy, calibrate=method, sinks=1, calibration_tokens=2000, offset=6 if policy == "add" else None
    )
    found = learn(model, tokenizer, WORDS, TRAINED, settings)
    lengths = lengths_of(settings, TRAINED)
    wanted = 2000 + 2 * max(400, lengths[-1])
    parts = Parts.of(make_windows(WORDS, tokenizer, lengths[-1], wanted, whole=policy == "add"), 2000)
    near = TRAINED if policy == "add" else None
    converted = converted_twin(
        model, found.slopes, TRAINED, policy=policy, sinks=1, sink_distance=near, offsets=found.offsets
    )
    assert not position_vectors(converted)
    kl, context = found.record["kl_nats_per_token"], TRAINED if policy == "add" else None
    counts = [part.n_tokens for part in (parts.chosen_by, parts.reported_on)]
    assert [found.record[f"{name}_tokens"] for name in ("chosen_by", "reported_on")] == counts
    measured = Divergence(model, converted, context=context)
    for length in lengths:
        compared = length if length == TRAINED else TRAINED // 2
        reported, chosen = (
            measured.mean(part.of_length(length, compared)) for part in (parts.reported_on, parts.chosen_by)
        )
        end = kl["end"][length] if policy == "add" else kl["end"]
        assert end == pytest.approx(reported, rel=1e-4) and abs(reported - chosen) > 1e-3 * reported
    assert found.record["slope_bounds"][0] < found.record["slope_bounds"][1]


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({}, (512,)),
        ({"calibration_length": 100}, (100,)),
        ({"policy": "add"}, (768,)),
        ({"policy": "add", "calibration_length": 4096}, (4096,)),
        ({"policy": "add", "horizon": 100}, (150,)),
        ({"policy": "add", "calibrate": "distil"}, (512, 1024, 2048)),
        ({"policy": "add", "calibrate": "distil", "calibration_length": 513}, (512, 513)),
        ({"policy": "add", "calibrate": "distil", "calibration_length": 1024}, (512, 1024)),
        ({"policy": "add", "calibrate": "distil", "calibration_length": 1500}, (512, 1024, 1500)),
        ({"policy": "add", "calibrate": "distil", "calibration_length": 5000}, (512, 1024, 2048, 4096, 5000)),
        ({"policy": "add", "calibrate": "distil", "horizon": 128, "offset": 128}, (128, 256, 512)),
    ],
)
def test_lengths_of_windows(settings, lengths):
    assert lengths_of(CalibrateSettings(**settings), 512) == lengths


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"calibration_length": 513}, "longer than the original was trained for"),
        ({"policy": "add", "calibration_length": 512}, "do not reach beyond 512"),
        ({"policy": "add", "calibrate": "distil", "calibration_length": 512}, "do not reach beyond 512"),
        ({"policy": "add", "horizon": 513}, "beyond the trained length, 512"),
        ({"policy": "add", "offset": 513}, "leaves what lies beyond 512"),
        ({"policy": "add", "horizon": 100, "offset": 101}, "leaves what lies beyond 100"),
    ],
)
def test_settings_that_cannot_be_met(settings, says):
    with pytest.raises(AlibiError, match=says) as error:
        lengths_of(CalibrateSettings(**settings), 512)
    assert error.value.exit_code == 2


def test_reach_needs_memory_for_all_of_its_windows():
    config = tiny_config("llama")
    many, few = (
        estimate(0, config, CalibrateSettings(policy="add", calibration_tokens=n), TRAINED)["bytes"]
        for n in (16384, 4096)
    )
    assert many == 4 * few == 4 * 40 * 16384 * config.hidden_size
