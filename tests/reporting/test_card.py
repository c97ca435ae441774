"""Results in model cards."""

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import alibi_cli as alibi
from alibi_cli.conversion.card_results import BEGIN, END, without_results
from alibi_cli.evaluation.tables import perplexity
from tests.cli.run import alibi_inside
from tests.models import OLD_MAX, save_tiny

SOURCE = """---
license: mit
language:
- en
datasets:
- wikitext
pipeline_tag: text-generation
---
# The source
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a converted checkpoint, its results)"""
    folder = tmp_path_factory.mktemp("card")
    source = save_tiny("llama", folder / "source")
    (source / "README.md").write_text(SOURCE)
    alibi.convert(source, folder / "out", verify=False)
    text = [(f"d{i}", f"the words of document {i} fall with distance " * 6) for i in range(4)]
    lengths = [OLD_MAX, 2 * OLD_MAX]
    results = alibi.evaluate([str(folder / "out")], baseline=str(source), lengths=lengths, text=text)
    results.save(folder / "r.json")
    return folder / "out", folder / "r.json"


def test_results_stand_in_the_card_once_however_often_they_are_put_there(measured: tuple[Path, Path]) -> None:
    folder, results = measured
    card = folder / "README.md"
    before = card.read_text()
    card.write_text(before.replace("# source", "My own words.\n\n# source"))
    alibi_inside("report", results, "--card", folder)
    once, modified = card.read_text(), card.stat().st_mtime_ns
    alibi_inside("report", results, "--card", folder)
    assert card.read_text() == once and card.stat().st_mtime_ns == modified
    assert once.count(BEGIN) == once.count(END) == once.count("## Results") == 1 and "My own words." in once
    assert alibi.verify(folder).passed and not list(folder.glob("*.tmp"))
    rows = [row for row in alibi.load_results(results).rows if row.model == str(folder)]
    section = once.split(BEGIN)[1].split(END)[0]
    assert all(perplexity(row.perplexity) in section for row in rows) and "| source:truncated |" in section
    data = ModelCard(once, ignore_metadata_errors=False).data
    assert (data.license, data.language, data.datasets) == ("mit", ["en"], ["wikitext"])
    assert data.pipeline_tag == "text-generation" and data.base_model is None and "custom_code" in data.tags
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("perplexity", round(row.perplexity, 4)) for row in rows
    ]
    assert without_results(once).split("---\n", 2)[2].split() == card_text(before, "My own words.\n\n# source").split()


def card_text(card: str, heading: str) -> str:
    return card.replace("# source", heading).split("---\n", 2)[2]


def test_others_entries_of_the_index_stay_and_a_card_without_metadata_is_one(measured: tuple[Path, Path]) -> None:
    folder, results = measured
    card = folder / "README.md"
    other = "model-index:\n- name: mine\n  results:\n  - task:\n      type: text-generation\n    dataset:\n      name: d\n      type: d\n"
    card.write_text(f"---\n{other}    metrics:\n    - type: accuracy\n      value: 0.5\n---\n\nWords.\n")
    for _ in range(2):
        alibi.report(results, card=folder)
    names = [entry["name"] for entry in yaml.safe_load(card.read_text().split("---")[1])["model-index"]]
    assert names == ["mine", "out"]
    for empty in ("", "Words.\n"):
        card.write_text(empty)
        alibi.report(results, card=folder)
        assert "## Results" in card.read_text() and empty.strip() in card.read_text()
    card.unlink()
    alibi.report(results, card=folder)
    assert "## Results" in card.read_text()


def test_a_card_gets_no_results_of_anything_else(measured: tuple[Path, Path], tmp_path: Path) -> None:
    folder, results = measured
    alibi.convert(folder.parent / "source", tmp_path / "other", verify=False, policy="add", offset=3)
    before = (tmp_path / "other" / "README.md").read_text()
    wrong = alibi_inside("report", results, "--card", tmp_path / "other", code=2)
    assert "no result is of" in wrong.stderr and (tmp_path / "other" / "README.md").read_text() == before
    unconverted = alibi_inside("report", results, "--card", folder.parent / "source", code=2)
    assert "is no converted checkpoint" in unconverted.stderr
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert (
        "metadata of the model card cannot be read" in alibi_inside("report", results, "--card", folder, code=1).stderr
    )


def test_training_drops_the_results_of_the_model_before(measured: tuple[Path, Path], tmp_path: Path) -> None:
    folder, results = measured
    (folder / "README.md").write_text(SOURCE)
    alibi.report(results, card=folder)
    (tmp_path / "t.txt").write_text("the bias of a head falls with distance " * 40)
    settings = {"steps": 1, "length": 8, "batch_tokens": 16, "text": [tmp_path / "t.txt"], "device": "cpu"}
    alibi.train(folder, tmp_path / "trained", **settings)
    trained = (tmp_path / "trained" / "README.md").read_text()
    assert "## Continued training" in trained and "license: mit" in trained
    assert BEGIN not in trained and "model-index" not in trained and "## Results" in (folder / "README.md").read_text()


def test_publishing_is_one_command_away(measured: tuple[Path, Path], tmp_path: Path) -> None:
    words = alibi_inside("convert", measured[0].parent / "source", "-o", tmp_path / "x", "--no-verify").stderr
    assert f"Publish: hf upload YOUR-NAME/x {tmp_path / 'x'}" in words


def test_a_card_that_is_not_utf_8_is_left_alone(measured: tuple[Path, Path], tmp_path: Path) -> None:
    folder, results = measured
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_bytes("# Café\n".encode("latin-1"))
    refused = alibi_inside("report", results, "--card", tmp_path / "out", code=1)
    assert "README.md is not UTF-8 text (byte 5)" in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert (tmp_path / "out" / "README.md").read_bytes() == "# Café\n".encode("latin-1")
