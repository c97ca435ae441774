"""The command that a conversion proposes next can be run on this machine, and is run here."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig

from alibi_cli.evaluation import suggestion
from alibi_cli.evaluation.suggestion import ENOUGH, suggest
from alibi_cli.models.cost import Cost, cost_of_shapes
from alibi_cli.text.documents import load_text
from tests.cli.run import alibi_inside
from tests.models import save_tiny

# SmolLM2-135M: trained at 8,192 tokens, and converted for four times as many.
SMOL = Cost(matrices=106_000_000, head=28_000_000, layers=30, heads=9, width=576, inner=1536, weight_bytes=538_000_000,
            item_bytes=4, materialised=False)  # fmt: skip
GB = 10**9
LAPTOP, GPU = 3e10, 3e14  # operations per second


def asked(cost: Cost, trained: int, free: int, speed: float, vocabulary: int = 49_152) -> suggestion.Suggestion | None:
    return suggest(cost, vocabulary, trained, 4 * trained, free, lambda: speed)


def test_a_laptop_is_not_asked_for_hours() -> None:
    found = asked(SMOL, 8192, 16 * GB, LAPTOP)
    assert found is not None and found.lengths[-1] < 8192 and found.max_segments >= ENOUGH
    assert 0 < found.seconds <= 600
    at_once = 2 * sum(SMOL.operations(length, 256) for length in (8192, 16384, 32768)) / LAPTOP
    assert at_once > 3600  # what was proposed before: more than an hour for one segment


def test_a_gpu_is_asked_for_as_much_as_the_text_allows() -> None:
    """Few documents of the embedded text have 16,384 such tokens."""
    found = asked(SMOL, 2048, 80 * GB, GPU)
    assert found is not None and found.lengths == [2048, 4096, 8192] and found.max_segments is None
    assert asked(SMOL, 128, 80 * GB, GPU).lengths == [128, 256, 512]


def test_sizes_are_those_of_the_text() -> None:
    text = {name: len(document.encode()) for name, document in load_text().documents}
    assert sorted(suggestion._sizes()) == sorted(size for name, size in text.items() if name.startswith("stdlib/"))
    assert sum(suggestion._sizes()) > 0.7 * sum(text.values())


def test_memory_is_a_limit_too() -> None:
    assert asked(SMOL, 8192, 600_000_000, GPU) is None  # the weights alone leave no room
    small, large = (asked(SMOL, 1024, n * GB, GPU).lengths[-1] for n in (1, 8))
    assert small <= large


def test_nothing_is_measured_where_it_cannot_matter() -> None:
    tiny = cost_of_shapes(LlamaConfig(vocab_size=257, hidden_size=48, num_attention_heads=6, num_hidden_layers=2), [])
    found = suggest(tiny, 257, 24, 96, None, lambda: pytest.fail("measured"))
    assert found is not None and found.lengths == [24, 48, 96] and found.max_segments is None


@pytest.mark.parametrize(
    ("family", "arms"),
    [("llama", " --arms truncated,streaming"), ("gpt2", ""), ("gptj", ""), ("mistral", "")],
)
def test_what_is_proposed_runs(family: str, arms: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suggestion, "_sizes", lambda: (400, 200) * 10)
    save_tiny(family, tmp_path / "m")
    said = alibi_inside("convert", "m", "-o", "out").stderr.splitlines()[-1]
    assert said == f"Next: alibi eval out --baseline m --lengths 24:96{arms}"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    shown = alibi_inside(*shlex.split(said)[2:], "--max-documents", "3").stdout
    assert ("m:streaming" in shown) == ("streaming" in arms) and "m:truncated" in shown


@pytest.mark.parametrize("family", ["t5", "headless"])
def test_what_cannot_be_scored_is_verified_instead(family: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if family == "t5":
        save_tiny("t5", tmp_path / "m")
    else:
        _headless(tmp_path / "m")
    said = alibi_inside("convert", "m", "-o", "out", "--max-sequence-length", "64").stderr.splitlines()[-1]
    assert said == "Next: alibi verify out"
    assert alibi_inside(*shlex.split(said)[2:]).returncode == 0


def _headless(folder: Path) -> None:
    settings: dict[str, Any] = dict(
        vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, intermediate_size=64
    )
    BertModel(BertConfig(**settings, max_position_embeddings=24)).save_pretrained(folder)


def test_a_headless_encoder_loads_with_automodel(tmp_path: Path) -> None:
    _headless(tmp_path / "m")
    printed = alibi_inside("convert", tmp_path / "m", "-o", tmp_path / "out").stdout
    assert f'loads with  AutoModel.from_pretrained("{tmp_path / "out"}", trust_remote_code=True)' in printed
    assert "AutoModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()
    assert "TextEncoding" not in printed + (tmp_path / "out" / "README.md").read_text()
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__name__ == "AlibiBertModel"
