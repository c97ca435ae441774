"""sentence-transformers on a converted encoder: encode, train, save, load."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss

from tests.ecosystem.checkpoints import Way, apart, ids_of
from tests.ecosystem.encoders import encoder, textbook

SENTENCES = ["a table of slopes", "attention with linear biases, at any length", "abc"]


def test_encode_train_save_load(way: Way, record: Any, tmp_path: Path) -> None:
    source, folder, steeper = encoder(tmp_path)
    expected = torch.cat([textbook(source, torch.tensor([ids_of(text)]), headless=True).mean(1) for text in SENTENCES])
    found = []
    for each in (folder, steeper):
        model = SentenceTransformer(str(each), device="cpu", **way.options)
        way.checked(model[0].auto_model)
        found.append(apart(torch.from_numpy(model.encode(SENTENCES, batch_size=3)), expected))
    difference, control = found
    assert difference < 1e-4 < control
    record(
        "sentence-transformers",
        "encode, a padded batch: mean of the hidden states, by the definition one by one",
        difference,
        control,
    )

    model = SentenceTransformer(str(folder), device="cpu", **way.options)
    before = torch.from_numpy(model.encode(SENTENCES))
    pairs = Dataset.from_dict({"anchor": SENTENCES, "positive": [text[::-1] for text in SENTENCES]})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=3, use_cpu=True, report_to=[], save_strategy="no",
        learning_rate=1e-3, disable_tqdm=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)).train()
    after = torch.from_numpy(model.encode(SENTENCES))
    model.save(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu", **way.options)
    way.checked(loaded[0].auto_model)
    difference, control = apart(torch.from_numpy(loaded.encode(SENTENCES)), after), apart(before, after)
    assert difference < 1e-6 < control
    record("sentence-transformers", "trained, saved, loaded: embeddings, before saving", difference, control)
