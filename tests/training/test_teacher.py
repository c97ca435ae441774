"""A teacher of sequences that are longer than it was trained for, against one call of the model for each token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from alibi_cli.conversion.verify import verify
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model
from alibi_cli.training.data import IGNORED
from alibi_cli.training.teacher import Teacher, from_zero
from alibi_cli.training.trainer import HealingTrainer
from tests.checkpoint.helpers import convert
from tests.models import is_encoder, sample_tokens, tiny_model
from tests.training.helpers import device, heal, text_file, tiny_converted, weights

LENGTH = 8


def begin_of(place: int, total: int) -> int:
    """Where the window begins from which a token is predicted: the first one of all that begin LENGTH / 2 apart and reach so far."""
    windows = [*range(0, total - LENGTH, LENGTH // 2), total - LENGTH]
    return next(begin for begin in windows if begin + LENGTH > place)


def one_by_one(model: Any, row: torch.Tensor, documents: list[int]) -> torch.Tensor:
    """(T,) tokens of a decoder, and where documents begin -> (T, V)"""
    logits = []
    for place in range(len(row)):
        document = max(begin for begin in documents if begin <= place)
        begin = max(document, begin_of(place, len(row)))
        logits.append(model(input_ids=row[None, begin : place + 1]).logits[0, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("total", [8, 9, 12, 16, 19, 24])
@pytest.mark.parametrize(("family", "documents"), [("llama", [0]), ("llama", [0, 5, 6, 17]), ("gpt2", [0])])
def test_every_token_is_predicted_from_the_window_that_the_definition_names(family, documents, total):
    model = tiny_model(family, max_position_embeddings=LENGTH)
    model.config.use_cache = False  # or transformers takes positions that restart at zero for a cache's
    tokens, documents = sample_tokens(2, total), [begin for begin in documents if begin < total]
    sizes = torch.diff(torch.tensor([*documents, total])).tolist()
    places = torch.cat([torch.arange(size) for size in sizes]).expand(2, -1)
    fed = {"input_ids": tokens, "position_ids": places, "output_hidden_states": True}
    logits, hidden = Teacher(model, LENGTH)(fed)
    with torch.no_grad():
        expected = torch.stack([one_by_one(model, row, documents) for row in tokens])
        assert (logits - expected).abs().max() < 2e-5 and logits.shape == (2, total, 61)
        if family == "llama" and total > 12 and documents == [0]:
            whole = model(input_ids=tokens).logits
            assert (whole - expected).abs().max() > 1e-2  # one that is fed everything would be noticed
        final = model.lm_head(hidden[-1])
    assert len(hidden) == 3 and (final - logits).abs().max() < 1e-6
    if documents == [0]:
        everything, nothing = Teacher(model)({"input_ids": tokens[:, :LENGTH]})
        assert nothing is None and (everything - logits[:, :LENGTH]).abs().max() < 2e-5


def test_padding_is_no_text():
    model = tiny_model("opt", max_position_embeddings=LENGTH)
    tokens, mask = sample_tokens(3, 20), torch.ones(3, 20, dtype=torch.long)
    for row, size in enumerate((20, 13, 3)):
        mask[row, size:] = 0
    logits, _ = Teacher(model, LENGTH)({"input_ids": tokens, "attention_mask": mask})
    for row, size in enumerate((20, 13, 3)):
        with torch.no_grad():
            for place in range(size):
                begin = begin_of(place, 20)
                expected = model(input_ids=tokens[row : row + 1, begin : place + 1]).logits[0, -1]
                assert (logits[row, place] - expected).abs().max() < 2e-5


def test_one_that_reads_ahead_speaks_about_the_middle():
    model = tiny_model("bert", max_position_embeddings=LENGTH)
    assert is_encoder(model)
    tokens = sample_tokens(1, 16)
    logits, _ = Teacher(model, LENGTH, masked=True)({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    with torch.no_grad():
        windows = [model(input_ids=tokens[:, begin : begin + LENGTH]).logits for begin in (0, 4, 8)]
    expected = torch.cat([windows[0][:, :6], windows[1][:, 2:6], windows[2][:, 2:]], dim=1)
    assert (logits - expected).abs().max() < 1e-6


def test_a_document_that_was_cut_begins_at_zero():
    found = from_zero(torch.tensor([[5, 6, 7, 0, 1], [0, 1, 2, 3, 0], [3, 4, 5, 6, 7], [9, 0, 0, 1, 2]]))
    assert found.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0], [0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path, documents=3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_of_a_step_is_that_of_the_definition(family, tmp_path, monkeypatch):
    """Cross-entropy of all targets, KL from the teacher's windows; the GPT-2 has no positions for such sequences at all."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("the bias of a head falls with distance " * n for n in (2, 9, 1, 5, 12)))
    source = tiny_converted(tmp_path, family, max_position_embeddings=16)
    batches, compute = [], HealingTrainer.compute_loss
    monkeypatch.setattr(
        HealingTrainer, "compute_loss", lambda self, model, inputs, *a, **k: batches.append(inputs) or compute(self, model, inputs, *a, **k)
    )  # fmt: skip
    report = heal(source, tmp_path / "healed", text, steps=1, length=64, teacher=str(tmp_path / family), kd_weight=0.7)
    assert report.teacher_length == 16 and "fed 16 tokens at a time" in (tmp_path / "healed" / "README.md").read_text()
    student, teacher = (
        load_model(describe(str(folder)), device(), "float32") for folder in (source, tmp_path / family)
    )
    ce = kd = count = 0.0
    for inputs in batches:
        ids, labels = inputs["input_ids"], inputs["shift_labels"]
        fed = {name: inputs[name] for name in ("input_ids", "position_ids", "attention_mask") if name in inputs}
        with torch.no_grad():
            ours = student(**fed).logits.log_softmax(-1)
            for row, (tokens, wanted) in enumerate(zip(ids, labels, strict=True)):
                places = inputs["position_ids"][row] if "position_ids" in inputs else torch.arange(len(tokens))
                for t in (wanted != IGNORED).nonzero().flatten().tolist():
                    windows = [*range(0, max(1, len(tokens) - 16), 8), max(0, len(tokens) - 16)]
                    begin = max(t - places[t].item(), next(b for b in windows if b + 16 > t))
                    theirs = teacher(input_ids=tokens[None, begin : t + 1]).logits[0, -1].log_softmax(-1)
                    kd += (theirs.exp() * (theirs - ours[row, t])).sum().item()
                    ce += cross_entropy(ours[row, t], wanted[t]).item()
                    count += 1
    assert report.losses[0].ce == pytest.approx(ce / count, rel=1e-4)
    assert report.losses[0].kd == pytest.approx(kd / count, rel=1e-4)
    assert report.losses[0].loss == pytest.approx(0.3 * ce / count + 0.7 * kd / count, rel=1e-4)


def test_within_its_length_it_is_fed_everything(text, tmp_path):
    source = tiny_converted(tmp_path, "llama", max_position_embeddings=32)
    report = heal(source, tmp_path / "healed", text, steps=1, teacher=str(tmp_path / "llama"))
    assert report.teacher_length is None and "at a time" not in (tmp_path / "healed" / "README.md").read_text()


@pytest.mark.parametrize("train_slopes", [False, True])
@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_an_added_bias_is_trained_and_stays_what_it_is(family, train_slopes, text, tmp_path):
    """Offsets say where the trained range ends, and are kept; slopes are trained on request."""
    tiny_converted(tmp_path, family, max_position_embeddings=16)
    (tmp_path / "s.json").write_text(
        json.dumps([[0.05 * (head + 1 + layer) for head in range(6)] for layer in range(2)])
    )
    source, out = tmp_path / "added", tmp_path / "healed"
    settings: dict[str, Any] = {"policy": "add", "sinks": 2, "offset": 6, "slopes": str(tmp_path / "s.json")}
    convert(tmp_path / family, source, check=False, **settings)
    schedule = ((32, 0.5), (64, 0.5))
    report = heal(
        source, out, text, length=None, length_schedule=schedule, teacher=str(tmp_path / family),
        train_slopes=train_slopes, hidden_weight=1.0 if family == "llama" else 0.0, steps=8,
    )  # fmt: skip
    assert report.teacher_length == 16 and report.verified.passed and report.losses[0].kd > 0
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, out))
    assert {**before, "alibi_slopes": None} == {**after, "alibi_slopes": None}
    assert (after["alibi_policy"], after["alibi_sinks"], after["alibi_offsets"]) == ("add", 2, [6.0] * 6)
    assert (after["alibi_slopes"] != before["alibi_slopes"]) == train_slopes
    assert after["alibi_sink_distance"] == 16
    facts, card = json.loads((out / "alibi.json").read_text()), (out / "README.md").read_text()
    assert (facts["policy_name"], facts["sinks"], facts["offsets"]) == ("add", 2, [6.0] * 6)
    assert facts["slopes"] == after["alibi_slopes"] and verify(out).passed
    assert "still there, unchanged" in card and "was not trained" not in card and "| policy | add |" in card
    assert not any("alibi" in name for name in weights(out))
    loaded = load_model(describe(str(out)), device(), "float32")
    assert all(module.alibi_offsets == [6.0] * 6 for module in loaded.modules() if hasattr(module, "alibi_slopes"))
    with torch.no_grad():  # the bias begins where it did: nothing changes within the offset
        first = loaded(input_ids=sample_tokens(1, 6)).logits
        for module in loaded.modules():
            if hasattr(module, "alibi_slopes"):
                module.alibi_slopes = [5.0] * 6
        assert torch.equal(loaded(input_ids=sample_tokens(1, 6)).logits, first)
