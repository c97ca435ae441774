"""The healing report: its arms, its figures from known sums, and that it says nothing of what was not run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.healing import report, run
from benchmarks.healing.arms import LENGTHS, MODELS, PRETRAINING_TOKENS, SEEDS, Arm, arms
from benchmarks.healing.report import Ladder, section

DOCUMENTS = 30


def record(name: str, nll: np.ndarray, seed: int | None = None, tokens: int = 0) -> dict:
    sums = {"sums": (10 * nll).tolist(), "counts": [10] * len(nll)}
    rows = [{"length": n, "arm": "full", "status": "ok", "nll": 0.0, "scored": "0" * 64, **sums} for n in LENGTHS]
    facts = {"tokens": tokens, "seed": seed, "seconds_of_command": 60.0, "passkey": []}
    return {"arm": name, "model": name.partition("-")[0], "rows": rows, **facts}


@pytest.fixture
def ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ladder:
    monkeypatch.setattr(report, "record_of", lambda name: tmp_path / f"{name}.json")
    original = np.random.default_rng(0).uniform(0.5, 1.5, DOCUMENTS)
    records = {
        "gpt2-original": record("gpt2-original", original),
        "gpt2-press": record("gpt2-press", original + 2),
        "gpt2-distil": record("gpt2-distil", original + 0.5),
        "gpt2-press-text-5pct-seed0": record("gpt2-press-text-5pct-seed0", original + 0.1, 0, 1_024_000),
        "gpt2-control-10pct-seed0": record("gpt2-control-10pct-seed0", original + 0.2, 0, 2_048_000),
    }
    for name, content in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return Ladder("gpt2")


def test_the_recovered_share_is_that_of_the_definition(ladder):
    assert ladder.recovered("gpt2-original") == pytest.approx((100, 100, 100))
    assert ladder.recovered("gpt2-press") == pytest.approx((0, 0, 0))
    assert ladder.recovered("gpt2-distil") == pytest.approx((75, 75, 75))  # 0.5 of 2 nats are missing in every document
    assert ladder.recovered("gpt2-look-back") is None


def test_differences_are_paired(ladder):
    ours, control = ladder.at("gpt2-press-text-5pct-seed0", 512), ladder.at("gpt2-control-10pct-seed0", 512)
    assert ladder.difference(ours, control) == "-0.1000 [-0.1000, -0.1000]"  # though the documents differ by much more
    text = section(ladder)
    assert "| calibrated, distil | 0 | – |" in text and "| 75.0 % |" in text
    assert "| control: the original trained on, 10 % | 10 % | 1 |" in text
    assert "yarn" not in text and "look-back" not in text


def test_seeds_are_averaged_document_by_document(ladder, tmp_path):
    first = ladder.at("gpt2-control-10pct-seed0", 512)
    other = record("gpt2-control-10pct-seed1", first.sums / 10 + 0.4, 1, 2_048_000)
    (tmp_path / "gpt2-control-10pct-seed1.json").write_text(json.dumps(other))
    row = next(line for line in section(Ladder("gpt2")).splitlines() if line.startswith("| control"))
    assert "| 2 |" in row and f"| {first.mean + 0.2:.4f} |" in row


def test_the_arms_are_those_that_are_documented():
    names = [arm.name for arm in arms()]
    assert len(set(names)) == len(names)
    for model in MODELS:
        for seed in SEEDS:
            for budget in (1, 5, 10):
                kinds = [f"{s}-{t}" for s in ("calibrated", "press") for t in ("teacher", "text")] + ["control"]
                for kind in kinds:
                    arm = next(a for a in arms() if a.name == f"{model}-{kind}-{budget}pct-seed{seed}")
                    assert arm.tokens == PRETRAINING_TOKENS * budget // 100
                    assert ("--teacher" in arm.command) == ("teacher" in kind)
                    assert arm.needs in names


def test_an_arm_is_run_and_leaves_a_record_that_the_report_can_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "WORK", tmp_path / "work")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "SEGMENTS", 2)
    monkeypatch.setattr(run, "PASSKEY", ("--lengths", "256", "--samples", "1"))
    monkeypatch.setattr(run, "LENGTHS", (128,))
    monkeypatch.setattr(run, "TARGETS", 32)
    monkeypatch.setattr(run, "arms", lambda: [Arm("llama-original", "llama", lengths=(64, 128))])
    monkeypatch.setattr(sys, "argv", ["run"])
    run.main()
    content = json.loads((tmp_path / "records" / "llama-original.json").read_text())
    assert [(row["length"], row["status"]) for row in content["rows"]] == [(64, "ok"), (128, "ok")]
    assert all(sum(row["counts"]) == 64 for row in content["rows"]) and len(content["passkey"]) == 1
    assert content["text"]["sha256"] and content["protocol"]["targets"] == 32
    monkeypatch.setattr(report, "record_of", run.record_of)
    read = Ladder("llama").at("llama-original", 128)
    assert read.sums.sum() / read.counts.sum() == pytest.approx(content["rows"][1]["nll"])


def test_records_of_other_tokens_cannot_stand_side_by_side(ladder: Ladder) -> None:
    path = report.record_of("gpt2-press")
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(SystemExit, match="gpt2 are of 2 sets of tokens"):
        Ladder("gpt2")
