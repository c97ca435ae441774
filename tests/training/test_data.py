"""Which tokens are trained on, and what they attend to."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from alibi_cli import AlibiError, apply_alibi
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import open_text
from alibi_cli.training.budget import Budget, Stage, make_budget
from alibi_cli.training.data import (
    IGNORED,
    Blocks,
    Collator,
    Masking,
    Tokens,
    keeps_documents_apart,
    positions,
    read_tokens,
    write_tokens,
)
from alibi_cli.training.enough_text import enough, whole
from tests.models import is_encoder, sample_tokens, tiny_model

END = 60


def some_tokens(sizes: list[int]) -> Tokens:
    """Documents of these sizes; token i of the text is i, so that every one can be told from the others."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Tokens(np.arange(starts[-1], dtype=np.int32), starts, {"name": "numbers"})


def budget(block: int, blocks_per_step: int, *stages: tuple[int, int]) -> Budget:
    return Budget(block, blocks_per_step, tuple(Stage(length=length, steps=steps) for length, steps in stages))


def rows(blocks: Blocks, batch: int) -> torch.Tensor:
    batches = [[blocks[i] for i in range(begin, begin + batch)] for begin in range(0, len(blocks), batch)]
    return torch.cat([Collator(True)(items)["input_ids"].flatten() for items in batches])


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window"])
@pytest.mark.parametrize("converted", [False, True])
def test_a_packed_row_is_computed_document_by_document(name: str, converted: bool) -> None:
    model = tiny_model(name)
    if converted:
        apply_alibi(model, 64)
    sizes = [7, 1, 9, 5]
    documents = [sample_tokens(1, size, seed) for seed, size in enumerate(sizes)]
    owners = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))[None]
    packed = model(input_ids=torch.cat(documents, dim=1), position_ids=positions(owners), use_cache=False).logits
    apart = torch.cat([model(input_ids=document, use_cache=False).logits for document in documents], dim=1)
    assert torch.allclose(packed, apart, atol=1e-12)  # float64
    mixed = model(input_ids=torch.cat(documents, dim=1), use_cache=False).logits
    assert not torch.allclose(mixed, apart, atol=1e-2) and torch.allclose(mixed[:, :7], apart[:, :7], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "apart"), [("gpt2", True), ("llama", True), ("opt", False), ("bloom", False), ("mpt", False)]
)
@pytest.mark.parametrize("converted", [False, True])
def test_families_whose_masks_do_not_follow_positions_are_found_and_padded(
    name: str, apart: bool, converted: bool
) -> None:
    """Padding must give what packing gives: the same targets, each document by itself."""
    model = tiny_model(name)
    if converted:
        apply_alibi(model, 64)
    assert keeps_documents_apart(model) is apart
    blocks = Blocks(some_tokens([7, 12, 3, 30, 9]), budget(16, 2, (16, 1)), seed=3)
    items = [blocks[0], blocks[1]]
    packed, padded = Collator(True)(items), Collator(False)(items)
    kept = packed["labels"] != IGNORED
    inside = padded["attention_mask"].bool()
    assert torch.equal(padded["input_ids"][inside], packed["input_ids"].flatten())
    assert torch.equal(padded["labels"][inside], packed["labels"].flatten())
    found = model(input_ids=padded["input_ids"] % 60, attention_mask=padded["attention_mask"]).logits[inside]
    pieces = packed["input_ids"].flatten().split(padded["attention_mask"].sum(1).tolist())
    alone = torch.cat([model(input_ids=piece[None] % 60).logits[0] for piece in pieces])
    assert torch.allclose(found, alone, atol=1e-9) and kept.sum() == (padded["labels"] != IGNORED).sum()


def test_targets_are_the_next_tokens_of_the_same_document() -> None:
    tokens = some_tokens([5, 1, 40, 17, 9, 30])
    blocks = Blocks(tokens, budget(8, 1, (8, 12)), seed=1)
    first_of_a_document = set(tokens.starts.tolist())
    targets = []
    for index in range(blocks.per_pass):
        block = blocks[index]
        for token, label in zip(block["input_ids"], block["labels"], strict=True):
            if label == IGNORED:
                assert token + 1 in first_of_a_document  # the end-of-text token of its document
            else:
                assert label == token + 1 and label not in first_of_a_document
                targets.append(label)
    assert len(set(targets)) == len(targets)


def test_every_pass_sees_the_text_once_in_an_order_of_its_own() -> None:
    tokens = some_tokens([40, 25, 63, 1, 30])  # 159 tokens: 19 blocks of 8 an epoch
    blocks = Blocks(tokens, budget(8, 2, (8, 30)), seed=0)
    seen = [np.concatenate([blocks[i]["input_ids"] for i in range(p * 19, p * 19 + 19)]) for p in range(3)]
    for one in seen:
        assert len(np.unique(one)) == len(one) == 152
    assert all(not np.array_equal(one, other) for one, other in pairwise(seen))
    assert blocks.passes == pytest.approx(60 / 19)
    other_seed = Blocks(tokens, budget(8, 2, (8, 30)), seed=1)
    assert not np.array_equal(blocks[0]["input_ids"], other_seed[0]["input_ids"])


def test_schedules_scaling_batch_sizes_and_processes_see_the_same_tokens() -> None:
    tokens = some_tokens([40, 25, 63, 1, 30, 500])
    plain = rows(Blocks(tokens, budget(16, 4, (16, 6)), 5), 4)
    staged = Blocks(tokens, budget(16, 4, (4, 2), (8, 2), (16, 2)), 5)
    assert torch.equal(rows(staged, 4), plain)
    assert torch.equal(rows(staged, 2), plain) and torch.equal(rows(staged, 1), plain)
    shapes = [tuple(Collator(True)([staged[i] for i in range(s * 4, s * 4 + 4)])["input_ids"].shape) for s in range(6)]
    assert shapes == [(16, 4)] * 2 + [(8, 8)] * 2 + [(4, 16)] * 2
    batch = Collator(True)([staged[i] for i in range(4)])
    assert batch["position_ids"].max() < 4 and (batch["position_ids"][:, 0] == 0).all()
    whole = Collator(True)([Blocks(tokens, budget(16, 4, (16, 6)), 5)[i] for i in range(4)])
    assert torch.equal(batch["labels"].flatten(), whole["labels"].flatten())  # nor a target, where rows were cut


def test_budgets() -> None:
    def of(**settings: object) -> Budget:
        return make_budget(settings_of(TrainSettings, {"checkpoint": "m", "output": "o", **settings}), 512)

    assert of(tokens=10_000, batch_tokens=4096) == budget(512, 8, (512, 3))
    assert of(tokens=10_000_000).batch_tokens == 4096 and of(tokens=10_000).batch_tokens == 512
    assert of(tokens=500_000) == budget(512, 2, (512, 489))
    assert of(steps=10, length_schedule=((512, 0.7), (1024, 0.3))) == budget(1024, 4, (512, 7), (1024, 3))
    assert of(steps=10, train_sequence_length_scaling=0.25) == budget(512, 8, (128, 10))
    assert of(steps=1, length=8192).batch_tokens == 8192
    wrong: list[tuple[dict, str]] = [
        ({}, "`tokens` or as `steps`"),
        ({"tokens": 5, "steps": 5}, "`tokens` or as `steps`"),
        ({"steps": 5, "length": 8, "length_schedule": ((8, 1.0),)}, "not both"),
        ({"steps": 5, "batch_tokens": 1000}, "not a multiple"),
        ({"steps": 5, "length_schedule": ((512, 0.7),)}, "add up to 1"),
        ({"steps": 5, "length_schedule": ((512, float("nan")),)}, "shares positive"),
        ({"steps": 5, "length_schedule": ((500, 0.5), (512, 0.5))}, "does not divide"),
        ({"steps": 5, "train_sequence_length_scaling": 0.3}, "does not divide"),
        ({"steps": 5, "learning_rate": float("nan")}, "`learning_rate` must be above 0"),
        ({"steps": 5, "kd_weight": 1.5}, "`kd_weight`"),
        ({"steps": 5, "hidden_weight": 1.0}, "`hidden_weight` needs `teacher`"),
    ]
    for settings, says in wrong:
        with pytest.raises(AlibiError, match=says) as error:
            of(**settings)
        assert error.value.exit_code == 2
    with pytest.raises(AlibiError, match="does not say at which length"):
        make_budget(TrainSettings(checkpoint="m", output=Path("o"), steps=1), None)


def test_text_becomes_tokens_with_an_end_after_each_document_and_streams_stop(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[2] / "presets" / "demo-gpt2")
    documents = [("a", "naïve"), ("b", ""), ("c", "x" * 50), ("d", "never read")]
    assert read_tokens(tmp_path) is None
    write_tokens(tmp_path, "mine", whole(documents), tokenizer, 256, limit=20)
    tokens = read_tokens(tmp_path)
    assert (
        tokens is not None and tokens.fingerprint["documents"] == 3 and tokens.fingerprint["tokens"] == 6 + 1 + 1 + 51
    )
    assert tokens.starts.tolist() == [0, 7, 8, 59]
    assert tokenizer.decode(tokens.ids[:6].tolist()) == "naïve" and tokens.ids[[6, 7, 58]].tolist() == [256] * 3
    with pytest.raises(AlibiError, match="holds no text"):
        write_tokens(tmp_path, "nothing", iter([]), tokenizer, 256, limit=None)
    with pytest.raises(AlibiError, match="fewer than one sequence"):
        Blocks(tokens, budget(64, 1, (64, 1)), 0)


def test_a_short_run_tokenises_what_it_needs_from_all_over_the_text(tmp_path: Path) -> None:
    """Pieces of a block, by the seed: as many documents as fit, and no end-of-text token where a document only was cut."""
    documents = [(f"d{n}", f"{n:03d} " * 1000) for n in range(50)]
    reads = []

    def read() -> tuple[str, list[tuple[str, str]]]:
        reads.append(1)
        return "mine", documents

    name, pieces, limit = enough(read, 600, 64, seed=0)
    pieces = list(pieces)
    assert (name, limit, len(reads)) == ("mine, chosen pieces", 600, 2)
    assert 600 * 8 <= sum(len(text) for _, text, _ in pieces) <= 600 * 8 + 256
    assert len({title for title, _, _ in pieces}) > 12 and {len(text) for _, text, _ in pieces} <= {256, 160}
    assert all(ends == (len(text) == 160) for _, text, ends in pieces)  # 4,000 = 15 * 256 + 160
    assert list(enough(read, 600, 64, seed=0)[1]) == pieces and list(enough(read, 600, 64, seed=1)[1]) != pieces
    name, pieces, limit = enough(read, 25_000, 64, seed=0)  # all of it
    assert (name, limit) == ("mine", None) and list(pieces) == [(*document, True) for document in documents]
    words: list[str] = []

    def tokenizer(text: str, **_: Any) -> dict[str, list[int]]:
        words.append(text)
        return {"input_ids": [1] * len(text)}

    _, pieces, limit = enough(read, 600, 64, seed=0)
    write_tokens(tmp_path, "mine", pieces, tokenizer, 256, limit)
    assert sum(map(len, words)) < 600 + 256 and len(read_tokens(tmp_path).ids) >= 600


def test_training_text_is_not_the_text_that_is_scored() -> None:
    trained = {name for name, _ in open_text(training=True)[1]}
    scored = {name for name, _ in open_text()[1]}
    assert trained and scored and not trained & scored


def test_masked_models_get_masked_targets_with_their_special_tokens() -> None:
    masking = Masking(mask=2, vocabulary=60, prefix=(0,), suffix=(1,))
    tokens = Tokens(np.full(4000, 9, dtype=np.int32), np.array([0, 1500, 4000]), {"name": "nines"})
    blocks = Blocks(tokens, budget(100, 4, (100, 9)), 0, masking)
    batch = Collator(False, masking)([blocks[i] for i in range(36)])
    scored = batch["labels"] != IGNORED
    assert 0.12 < scored.sum() / 3600 < 0.18 and (batch["labels"][scored] == 9).all()
    assert 0.7 < (batch["input_ids"][scored] == 2).float().mean() < 0.9
    assert (batch["input_ids"][:, 0] == 0).all() and not scored[:, 0].any()
    ends = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"][torch.arange(len(ends)), ends] == 1).all()
    again = Blocks(tokens, budget(100, 4, (100, 9)), 0, masking)
    assert np.array_equal(again[7]["labels"], blocks[7]["labels"])
    assert is_encoder(tiny_model("bert"))
