"""trl: supervised fine-tuning on packed documents."""

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.ecosystem.checkpoints import TEXT, Checkpoint, Way, ids_of

DOCUMENTS = [TEXT[:31], TEXT[5:25], TEXT[30:70], TEXT[11:40]]


def by_hand(checkpoint: Checkpoint, documents: list[list[int]]) -> float:
    """Nats per predicted token of documents that are read one by one, by the definition."""
    total = count = 0.0
    for document in documents:
        ids = torch.tensor([document])
        total -= checkpoint.textbook(ids)[:, :-1].gather(-1, ids[:, 1:, None]).sum().item()
        count += len(document) - 1
    return total / count


def test_packing(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    documents = [ids_of(text) for text in DOCUMENTS]
    expected = by_hand(checkpoint, documents)
    found = {}
    for packing, free in ((True, True), (False, True), (False, False)):
        config = SFTConfig(
            str(tmp_path), packing=packing, padding_free=free, max_length=128 if packing else None, max_steps=1,
            per_device_train_batch_size=4, learning_rate=0.0,
            logging_steps=1, use_cpu=True, bf16=False, report_to=[], save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            way.model(checkpoint.folder), config, train_dataset=Dataset.from_dict({"input_ids": documents}),
            processing_class=way.tokenizer(checkpoint.source),
        )  # fmt: skip
        trainer.train()
        found[packing, free] = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    difference = max(abs(loss - expected) for loss in found.values())
    control = abs(by_hand(checkpoint, [[*chain(*documents)]]) - expected)  # documents that see each other
    assert difference < 1e-3 < control, found
    record(
        "trl",
        "SFTTrainer, packed, padding-free and padded: loss, by the definition on one document at a time",
        difference,
        control,
    )
