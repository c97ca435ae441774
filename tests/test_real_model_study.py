"""The study on a real model: its statistics and its resumption, on a tiny Llama and without a network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alibi_cli.evaluation.arms import arm_of
from benchmarks.real_model import arms, headline, measure, records, report
from benchmarks.real_model.arms import ARMS, Arm, ArmFailed
from benchmarks.real_model.calibration_texts import calibration_documents
from benchmarks.real_model.documents import LENGTH
from benchmarks.real_model.evaluation_texts import evaluation_documents
from benchmarks.real_model.records import BANDS, BIN, Record
from benchmarks.real_model.report import BEGIN, END, Study
from benchmarks.real_model.tokenizer import PROBE, BytePairs
from tests.conftest import REPOSITORY

SHORT = 512
TINY = (Arm("original", "as it is", length=SHORT), Arm("window", "a window", original="window:64", length=SHORT))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def study(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Three documents; records go to a folder of the test's own."""
    monkeypatch.setattr(records, "FULL", tmp_path / "full")
    monkeypatch.setattr(records, "SUMS", tmp_path / "sums")
    monkeypatch.setattr(arms, "checkpoint", lambda arm: tiny)
    monkeypatch.setattr(measure, "PROBES", (64, 128))
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 50, SHORT + 9) for name in ("a", "b", "c")}


def scored(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """Lengths that are scored from now on, without the passes that the clock makes; an interrupt comes at the given one."""
    done: list[int] = []
    score = measure.score

    def noting(model: object, ids: np.ndarray) -> np.ndarray:
        if len(ids) > SHORT:
            if len(done) == fail_at:
                raise KeyboardInterrupt
            done.append(len(ids) - 1)
        return score(model, ids)

    monkeypatch.setattr(measure, "score", noting)
    return done


def test_scores_are_those_of_the_logits(tiny, study):
    model = LlamaForCausalLM.from_pretrained(tiny).eval()
    ids = torch.from_numpy(study["a"][None, : SHORT + 1])
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
    assert measure.score(model, study["a"][: SHORT + 1]) == pytest.approx(expected, abs=1e-4)


def test_a_stretched_rotation_is_that_of_transformers(tiny, study):
    ids = torch.from_numpy(study["a"][None, :200])
    model = LlamaForCausalLM.from_pretrained(tiny).eval()
    config = LlamaConfig.from_pretrained(tiny)
    stretch = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100}
    config.rope_parameters = {**config.rope_parameters, **stretch}
    config.max_position_embeddings = 200
    stretched = LlamaForCausalLM.from_pretrained(tiny, config=config).eval()
    with torch.no_grad(), arm_of(model, "yarn", trained_length=100, length=200):
        assert (model(ids).logits - stretched(ids).logits).abs().max() < 1e-5


def test_a_killed_run_goes_on_at_the_next_document(study, monkeypatch):
    said: list[str] = []
    interrupted = scored(monkeypatch, fail_at=4)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(TINY, study, device="cpu", say=said.append)
    first = {path: path.read_bytes() for path in records.FULL.rglob("*.npz")}
    interrupted.append(0)  # no further interrupt
    assert measure.measure(TINY, study, device="cpu", say=said.append) == []
    assert interrupted == [SHORT] * 4 + [0] + [SHORT] * 2
    assert {path: path.read_bytes() for path in first} == first
    assert len(list(records.FULL.rglob("*.npz"))) == 6
    assert measure.measure(TINY, study, device="cpu", say=said.append) == []
    assert len(interrupted) == 7, "all was there"
    assert sum("left" in line for line in said) == 6 and "about" in said[0]
    sums = json.loads((records.SUMS / "window.json").read_text())["documents"]
    whole = records.load(records.path_of("window", "c"))
    assert sums["c"]["sums"] == pytest.approx(whole.nll.reshape(-1, BIN).sum(1), abs=1e-2)
    assert len(sums) == 3 and whole.nll.dtype == np.float32


def test_other_tokens_and_another_model_are_measured_anew(study):
    measure.measure(TINY[:1], study, device="cpu", say=lambda line: None)
    assert measure.missing(TINY[0], study, SHORT) == []
    assert measure.missing(TINY[0], study, SHORT, "another model") == ["a", "b", "c"]
    assert measure.missing(TINY[0], study, SHORT + BIN) == ["a", "b", "c"]
    assert measure.missing(TINY[0], {**study, "b": study["b"] + 0 * study["b"] + 1}, SHORT) == ["b"]


def test_an_arm_that_cannot_be_made_is_named_and_the_others_are_measured(study, tiny, monkeypatch):
    def checkpoint(arm: Arm) -> Path:
        if arm.name == "original":
            raise ArmFailed("alibi convert exited with 2")
        return tiny

    monkeypatch.setattr(arms, "checkpoint", checkpoint)
    said: list[str] = []
    assert measure.measure(TINY, study, device="cpu", say=said.append) == ["original"]
    assert said[0] == "original: alibi convert exited with 2"
    assert (records.SUMS / "window.json").is_file()


def written(name: str, nll: dict[str, np.ndarray], what: str = "") -> None:
    for document, values in nll.items():
        records.save(Record(values, document, "model", {"seconds": 1.0}), records.path_of(name, document))
    records.summarise(name, what, {})


@pytest.fixture
def known(study) -> dict[str, np.ndarray]:
    """Records whose differences are known: the NLL of a token is its context in thousands, plus something for document and arm."""
    names = [document.name for document in evaluation_documents()]
    noise = np.random.default_rng(1).normal(0, 0.01, len(names))
    base = {name: np.arange(1, LENGTH + 1) / 1000 + noise[i] for i, name in enumerate(names)}
    far = np.arange(1, LENGTH + 1) > 8192
    written("original", {name: values + 2.0 * far for name, values in base.items()})
    written("streaming", base)
    written("add-reach", {name: values + 0.5 for name, values in base.items()})
    near = {name: values + 0.01 + noise[i] / 10 for i, (name, values) in enumerate(base.items())}
    written("add-distil", near)
    written("horizon-window+sinks", {name: values[:4096] for name, values in base.items()})
    written("horizon-add-distil", {name: values[:4096] - 0.01 for name, values in base.items()})
    return base


def test_bands_are_half_open_and_cover_everything(known):
    found = Study()
    assert [start for start, _ in BANDS] == [0, *(end for _, end in BANDS[:-1])]
    for start, end in BANDS:
        expected = np.mean([values[start:end] for values in known.values()])
        assert found.mean("streaming", start, end) == pytest.approx(expected, abs=1e-6)
    assert found.mean("horizon-window+sinks", 4096, 6144) is None, "what was not scored has no mean"
    assert found.mean("yarn", *BANDS[0]) is None


def test_commands_have_nothing_left_to_fill_in(study, tiny, monkeypatch):
    monkeypatch.setattr(arms, "calibration_files", lambda: [Path("a.txt"), Path("b.txt")])
    monkeypatch.setattr(arms.environment, "model", lambda: tiny)
    monkeypatch.setattr(arms, "_uniform", lambda: Path("uniform.json"))
    found = {arm.name: list(arms._filled(arm, Path("made"))) for arm in ARMS if arm.command}
    assert all("made" in words and not any("{" in word for word in words) for words in found.values())
    assert found["replace-healed"][:3] == ["train", str(tiny), "-o"] and found["replace-healed"].count("--text") == 2
    assert found["add-reach"].count("--calibration-text") == 2 and "uniform.json" in found["add-uniform"]


def test_differences_are_paired_by_document(known):
    found = Study()
    beyond = found.difference("original", "streaming", 12288, 16384)
    assert (beyond.mean, beyond.low, beyond.high) == pytest.approx((2, 2, 2), abs=1e-6)
    assert beyond.verdict == "degrades"
    near = found.difference("add-distil", "original", 0, 8192)
    offsets = [0.01 + (values[0] - 0.001) / 10 for values in known.values()]
    assert near.mean == pytest.approx(np.mean(offsets), abs=1e-6)
    assert near.low < near.mean < near.high and near.high - near.low < 0.002
    better = found.difference("horizon-add-distil", "original", 2048, 3072)
    assert better.verdict == "better", "a shorter record is compared where it reaches"
    assert found.difference("horizon-add-distil", "original", 8192, 10240) is None


def test_other_text_under_the_same_name_is_not_compared(known):
    written("yarn", {"botchan": np.ones(LENGTH)})
    path = records.SUMS / "yarn.json"
    path.write_text(path.read_text().replace('"tokens": "botchan"', '"tokens": "another"'))
    assert Study().difference("yarn", "original", 0, 8192) is None


def test_the_page_is_made_from_the_records_alone(known, tmp_path):
    page, figure = tmp_path / "quality.md", tmp_path / "real_model.svg"
    page.write_text(f"# Quality\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    report.into_page(page, figure)
    text = page.read_text()
    assert "old" not in text and text.startswith("# Quality\n\nbefore\n") and text.endswith(f"{END}\n\nafter\n")
    assert "| add-distil | +0.0102 [" in text and figure.read_text().count("<path") > 10
    assert "| horizon-add-distil | -0.0100 [-0.0100, -0.0100] | -0.0100 [-0.0100, -0.0100] |" in text
    tables = text.split("\n\n")
    assert max(block.count("\n") for block in tables if block.startswith("| ")) - 1 <= 15
    report.into_page(page, figure)
    assert page.read_text() == text


def test_the_headline_is_made_from_the_records_alone(known, tmp_path):
    page, figure = tmp_path / "README.md", tmp_path / "docs" / "picture.svg"
    page.write_text(f"# alibi\n\n{headline.BEGIN}\nold\n{headline.END}\n\nafter\n")
    headline.into_readme(page, figure)
    text, drawn = page.read_text(), figure.read_bytes()
    mean = np.mean([values[10240:12288] for values in known.values()])
    original = next(line for line in text.splitlines() if line.startswith("| original |"))
    assert original.split(" | ")[3] == f"{np.exp(mean + 2):.2f}" and "old" not in text and text.endswith("after\n")
    assert "](docs/picture.svg)" in text and "not been measured" not in text, "streaming has been"
    headline.into_readme(page, figure)
    assert (page.read_text(), figure.read_bytes()) == (text, drawn)


def test_the_readme_shows_the_committed_records():
    text = (REPOSITORY / "README.md").read_text()
    shown = text.split(headline.BEGIN)[1].split(headline.END)[0].strip()
    assert shown == headline.block(Study(), "docs/images/smollm2.svg")
    page = (REPOSITORY / "docs" / "quality.md").read_text()
    assert page.split(BEGIN)[1].split(END)[0].strip().endswith(report.tables(Study()))


def test_without_records_the_page_says_so(study):
    assert report.tables(Study()) == "No records yet: `make study` makes them."


def test_calibration_sees_neither_a_document_nor_a_package_that_is_scored():
    scored_ones, others = evaluation_documents(), calibration_documents()
    assert (len(scored_ones), len(others)) == (12, 24)
    for documents in (scored_ones, others):
        assert sum(document.kind == "prose" for document in documents) == len(documents) / 2
        assert len({document.name for document in documents}) == len({document.sha256 for document in documents})
    assert not {document.package for document in scored_ones} & {document.package for document in others}
    assert all("==" in document.package and len(document.sha256) == 64 for document in scored_ones + others)


def test_arms_have_distinct_names_and_fit_a_table():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert sum(arm.length == LENGTH for arm in ARMS) <= 15
    assert sum(arm.drawn for arm in ARMS) <= len(report.STYLES)


def test_byte_pairs_agree_with_the_tokenizers_library():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    texts = [PROBE, Path(report.__file__).read_text()]
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    reference = BytePairs(sorted(model["vocab"], key=model["vocab"].get), [" ".join(pair) for pair in model["merges"]])
    assert all(reference.ids(text) == tokenizer.encode(text).ids for text in texts)
    tokenizer.pre_tokenizer = byte_level
    assert reference.ids(PROBE) != tokenizer.encode(PROBE).ids, "the probe sees digits that are not cut off"
