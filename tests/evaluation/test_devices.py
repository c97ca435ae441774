"""A model whose weights are in several places gives what it gives in one."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from alibi_cli import AlibiError
from alibi_cli.evaluation.scoring import Scorer
from alibi_cli.models import loading as models
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model
from alibi_cli.models.machine import free_memory
from alibi_cli.text.documents import Text
from tests.checkpoint.helpers import convert
from tests.evaluation.helpers import asked, evaluate
from tests.evaluation.test_scoring import documents, make_protocol
from tests.models import save_tiny

TEXT = Text("sample", [(f"d{i}", f"{i} is the number of this document, which goes on. " * 2) for i in range(3)])
Memory = namedtuple("Memory", "available")


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which half of the weights must stay on the disk; accelerate does all the rest."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(150_000))


@pytest.mark.parametrize("family", ["gpt2", "llama", "roberta"])
@pytest.mark.parametrize("converted", [False, True])
def test_split_between_memory_and_disk(family: str, converted: bool, tmp_path: Path, little_memory: None) -> None:
    folder = save_tiny(family, tmp_path / family, tie_word_embeddings=family == "gpt2", max_position_embeddings=64)
    if converted:
        convert(folder, tmp_path / "converted", check=False)
        folder = tmp_path / "converted"
    info, docs = describe(str(folder)), documents(60, 41)
    whole, split = load_model(info, "cpu"), load_model(info, "split")
    assert "disk" in split.hf_device_map.values() and any(parameter.is_meta for parameter in split.parameters())
    mask = 4 if info.masked else None
    windows = make_protocol("non-overlapping", (16,), masked=info.masked).windows(docs, 16)
    expected = Scorer(whole, [], [], mask).score(docs, windows)
    for _ in range(2):  # the second time would fail if the first had taken accelerate's hooks away
        found = Scorer(split, [], [], mask).score(docs, windows)
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_split_model_from_end_to_end(tmp_path: Path, little_memory: None) -> None:
    folder = str(save_tiny("llama", tmp_path / "llama"))
    results, record = evaluate(asked([folder], (16, 64), TEXT, protocol="non-overlapping", device="split"))
    plain, expected = evaluate(asked([folder], (16, 64), TEXT, protocol="non-overlapping"))
    assert all(np.array_equal(record[key].nll, expected[key].nll) for key in expected)
    assert results.protocol == plain.protocol and results.models == plain.models


def test_a_model_is_split_if_it_is_larger_than_the_free_memory_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = describe(str(save_tiny("llama", tmp_path / "llama")))
    size = (info.folder / "model.safetensors").stat().st_size
    for free, dtype, expected in (
        (size, "auto", False),
        (size - 1, "auto", True),
        (size - 1, torch.bfloat16, False),
        (size * 2 - 1, torch.float64, True),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10 * size))
        assert models._too_large_for_one(info, dtype) is expected


@pytest.mark.parametrize(("device", "free"), [("auto", 7), ("split", 7), ("cuda", 3), ("cuda:0", 3), ("cuda:1", 4)])
def test_the_free_memory_of_one_gpu_is_that_of_others_where_a_model_may_be_split(
    device: str, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs, of which the first is the one that is meant by "cuda"; whether they are there is asked elsewhere."""
    sizes = {"cuda": 3, "cuda:0": 3, "cuda:1": 4, 0: 3, 1: 4}
    monkeypatch.setattr(models, "pick_device", lambda name: "cuda" if name == "auto" else name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (sizes[place], 10))
    assert free_memory(device) == free


def test_a_device_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(AlibiError, match="cannot be used"):
        models.device_type("cuda:99")
