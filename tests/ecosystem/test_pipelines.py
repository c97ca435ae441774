"""transformers' pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, pipeline

from tests.ecosystem.checkpoints import COUNT, PROMPT, Checkpoint, Way, apart, ids_of, log_probabilities
from tests.ecosystem.encoders import MASK, encoder, textbook


def test_text_generation(checkpoint: Checkpoint, way: Way) -> None:
    generate = pipeline("text-generation", str(checkpoint.folder), device="cpu", **way.options)
    way.checked(generate.model)
    options = {"max_new_tokens": COUNT, "do_sample": False, "return_full_text": False}
    texts = [each[0]["generated_text"] for each in generate([PROMPT, PROMPT[4:]], batch_size=2, **options)]
    tokenizer = way.tokenizer(checkpoint.folder)

    def by_hand(model: Any, prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        start = ids.shape[1]
        for _ in range(COUNT):
            ids = torch.cat([ids, log_probabilities(model, ids)[:, -1:].argmax(-1)], dim=1)
        return tokenizer.decode(ids[0, start:])

    assert texts == [by_hand(generate.model, PROMPT), by_hand(generate.model, PROMPT[4:])]
    assert texts[0] != by_hand(way.model(checkpoint.steeper), PROMPT)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return encoder(tmp_path_factory.mktemp("encoder"))


def test_fill_mask(encoders: tuple[Path, Path, Path], way: Way, record: Any) -> None:
    source, folder, steeper = encoders
    way.model(folder, AutoModelForMaskedLM)
    words, found = "abcdefghij", []
    for each in (folder, steeper):
        fill = pipeline("fill-mask", str(each), device="cpu", top_k=258, **way.options)
        way.checked(fill.model)
        scores = torch.zeros(258)
        for row in fill(f"{words}<mask>{words}"):
            scores[row["token"]] = row["score"]
        found.append(scores.log())
    tokens = torch.tensor([[*ids_of(words), MASK, *ids_of(words)]])
    expected = textbook(source, tokens)[0, len(words)].log_softmax(-1)
    difference, control = (apart(each, expected) for each in found)
    assert difference < 1e-3 < control
    record(
        "transformers",
        "pipeline fill-mask, BERT: log-probabilities at the mask, by the definition",
        difference,
        control,
    )


def test_feature_extraction_has_the_body_alone(encoders: tuple[Path, Path, Path], way: Way, tmp_path: Path) -> None:
    source, folder, steeper = encoders
    expected = textbook(source, torch.tensor([ids_of("abcdefghij" * 2)]), headless=True)
    for each, same in ((folder, True), (steeper, False)):
        features = pipeline(
            "feature-extraction", model=way.model(each, AutoModel), tokenizer=way.tokenizer(each), device="cpu"
        )
        difference = apart(torch.tensor(features("abcdefghij" * 2)), expected)
        assert (difference < 1e-4) is same
