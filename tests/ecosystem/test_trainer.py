"""transformers' Trainer, against the same steps by hand."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from tests.ecosystem.checkpoints import Checkpoint, Way, text_tokens

STEPS, RATE = 3, 0.05


def by_hand(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = model(input_ids=tokens).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return model.state_dict()


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in other)


def test_trainer(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    tokens = text_tokens(40, batch=4)
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    expected = by_hand(way.model(checkpoint.folder), tokens)
    control = largest(by_hand(way.model(checkpoint.steeper), tokens), expected)
    for remembers in (False, True):  # gradient checkpointing
        model = way.model(checkpoint.folder)
        arguments = TrainingArguments(
            str(tmp_path / "run"), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=RATE, optim="sgd", max_grad_norm=0,
            lr_scheduler_type="constant", use_cpu=True, report_to=[], save_strategy="no",
            gradient_checkpointing=remembers, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        difference = largest(model.state_dict(), expected)
        assert difference < 1e-5 < control
        record(
            "transformers",
            f"Trainer, {STEPS} steps, with and without gradient checkpointing: weights, by hand",
            difference,
            control,
        )
    trainer.save_model(str(tmp_path / "saved"))
    assert largest(way.model(tmp_path / "saved").state_dict(), model.state_dict()) == 0
