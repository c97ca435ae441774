"""A data set that is tokenized and scored by `datasets`, and the weights as safetensors reads them without torch."""

from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from safetensors.numpy import load_file

from tests.ecosystem.checkpoints import TEXT, Checkpoint, Way, ids_of, log_probabilities


def nll(log_probability: torch.Tensor, ids: torch.Tensor) -> float:
    return -log_probability[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()


def test_map(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = way.tokenizer(checkpoint.folder)
    found = []
    for folder in (checkpoint.folder, checkpoint.steeper):
        model = way.model(folder)

        def score(row: dict[str, Any], model: Any = model) -> dict[str, float]:
            ids = tokenizer(row["text"], return_tensors="pt").input_ids
            return {"nll": nll(log_probabilities(model, ids), ids)}

        rows = load_dataset(
            "text", data_files=str(tmp_path / "text.txt"), split="train", cache_dir=str(tmp_path / "cache")
        )
        found.append(rows.map(score)["nll"])
    lines = [torch.tensor([ids_of(line)]) for line in TEXT.splitlines()]
    expected = [nll(checkpoint.textbook(ids), ids) for ids in lines]
    difference, control = (max(abs(a - b) for a, b in zip(each, expected, strict=True)) for each in found)
    assert difference < 1e-5 < control
    record("datasets", "Dataset.map over lines of text: nats per token, by the definition", difference, control)


def test_safetensors(checkpoint: Checkpoint, record: Any) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (checkpoint.folder, checkpoint.source))
    kept = ours.keys() & theirs.keys()
    assert len(kept) > 40 and len(theirs.keys() - kept) <= 1
    difference = max(abs(ours[name] - theirs[name]).max() for name in kept)
    control = max(abs(ours[name] - theirs[name] * 1.1).max() for name in kept)
    assert difference == 0 < control
    record(
        "safetensors",
        "tensors of the converted file, read without torch, against the original's",
        float(difference),
        float(control),
    )
