"""Exported files in the real llama.cpp. `make engines` runs this, in an environment of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from alibi_cli.errors import AlibiError
from alibi_cli.exporting import run, tokenizer
from alibi_cli.exporting.engine import running
from alibi_cli.exporting.page import PAGE
from alibi_cli.exporting.tokenizer import GPT4
from alibi_cli.slopes import get_slopes
from tests.cli.run import alibi_json
from tests.exporting.helpers import MODELS, checkpoint, slopes_file

EXACT_GELU = ("gpt_neox", "mpt", "biogpt", "xglm")


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_computes(name: str, tmp_path: Path):
    family, changes = MODELS[name]
    folder = checkpoint(tmp_path, family, changes)
    report = run.export(folder, tmp_path / "model.gguf", approximate=family in EXACT_GELU)
    assert report.verified is not None and report.verified.by.startswith("llama.cpp")
    assert report.verified.text_characters == len(PAGE)
    gelu = report.architecture in ("mpt", "bloom")
    assert report.verified.max_abs_logprob_difference < (0.02 if gelu else 1e-4)


def test_two_heads_exchanged_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    press = get_slopes(6)
    monkeypatch.setattr(
        "alibi_cli.exporting.tensors.by_layer", lambda slopes, n: [[press[h] for h in (1, 0, 2, 3, 4, 5)]] * n
    )
    with pytest.raises(AlibiError, match="differ from transformers"):
        run.export(checkpoint(tmp_path, "gpt2"), tmp_path / "model.gguf")


def test_heads_that_change_places(tmp_path: Path):
    press = get_slopes(6)
    slopes = [[press[h] for h in (4, 5, 3, 0, 2, 1)], [press[h] for h in (0, 2, 1, 3, 5, 4)]]
    folder = checkpoint(tmp_path, "llama", slopes=slopes_file(tmp_path / "slopes.json", slopes))
    report = run.export(folder, tmp_path / "model.gguf")
    assert report.heads_permuted and report.verified is not None
    assert report.verified.max_abs_logprob_difference < 1e-4


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_narrow_types(dtype: str, tmp_path: Path):
    folder = checkpoint(tmp_path, "llama", {"hidden_size": 96, "head_dim": 8})
    report = run.export(folder, tmp_path / "model.gguf", dtype=dtype)
    assert report.verified is not None and report.verified.mean_abs_logprob_difference > 1e-4


def byte_level(before: pre_tokenizers.PreTokenizer | None, use_regex: bool, ignore_merges: bool = False) -> Tokenizer:
    trained = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    trained.pre_tokenizer = steps if before is None else pre_tokenizers.Sequence([before, steps])
    trained.decoder = decoders.ByteLevel()
    _train(trained, pre_tokenizers.ByteLevel.alphabet())
    return trained


def sentence_piece() -> Tokenizer:
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    _train(
        trained,
        sorted(set(PAGE[:300].replace(" ", "▁"))),
        ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))],
    )
    data = json.loads(trained.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(data))


def _train(trained: Tokenizer, alphabet: list[str], special: list[str] | None = None) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, special_tokens=special or ["<|end|>"], show_progress=False
    )
    trained.train_from_iterator([PAGE, Path(__file__).read_text(), PAGE.upper()] * 4, trainer)


def _split(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(expression), behavior="isolated")


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2, gpt-2": lambda: byte_level(None, True),
    "gpt2, starcoder": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), True),
    "gpt2, llama-bpe": lambda: byte_level(_split(GPT4 % "1,3"), False, ignore_merges=True),
    "gpt2, glm4": lambda: byte_level(_split(GPT4 % "1,3"), False),
    "gpt2, qwen2": lambda: byte_level(_split((GPT4 % "1,3").replace(r"\p{N}{1,3}", r"\p{N}")), False),
    "llama": sentence_piece,
}


def with_tokenizer(tmp_path: Path, name: str) -> Path:
    folder = checkpoint(tmp_path, "llama", {"vocab_size": 1000})
    trained = TOKENIZERS[name]()
    special = {"eos_token": "</s>", "unk_token": "<unk>"} if name == "llama" else {"eos_token": "<|end|>"}
    PreTrainedTokenizerFast(tokenizer_object=trained, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_becomes_the_same_tokens(name: str, tmp_path: Path):
    report = run.export(with_tokenizer(tmp_path, name), tmp_path / "model.gguf")
    assert report.tokenizer == name
    assert report.verified is not None and report.verified.text_characters == len(PAGE)


def test_another_pre_tokenizer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "_pre_tokenizer", lambda data: "gpt-2")
    with pytest.raises(AlibiError, match="other tokens of a text"):
        run.export(with_tokenizer(tmp_path, "gpt2, qwen2"), tmp_path / "model.gguf")
    assert not list(tmp_path.glob("model*"))


def test_a_file_stands_in_the_same_table(tmp_path: Path):
    folder, file = checkpoint(tmp_path, "llama"), tmp_path / "model.gguf"
    run.export(folder, file)
    texts = [tmp_path / "text.txt", tmp_path / "other.txt"]
    for text, written in zip(texts, (PAGE[:600], PAGE[200:]), strict=True):
        text.write_text(written)
    options = (
        "--text",
        texts[0],
        "--text",
        texts[1],
        "--lengths",
        "32,64,128",
        "--targets",
        "8",
        "--output",
        tmp_path / "r.json",
    )
    found = alibi_json("eval", file, "--baseline", folder, *options)
    rows = {(row["model"], row["length"]): row for row in found["rows"]}
    for length in (32, 64):
        theirs, ours = rows[str(file), length], rows[str(folder), length]
        assert theirs["status"] == ours["status"] == "ok" and theirs["tokens_scored"] == ours["tokens_scored"]
        assert theirs["nll"] == pytest.approx(ours["nll"], abs=1e-5)
        assert theirs["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], abs=1e-5)
    assert rows[str(file), 128]["status"] == "out_of_range"  # it declares 96 tokens, and llama.cpp takes no more
    facts = {model["name"]: model for model in found["models"]}
    assert facts[str(file)]["tokens_sha256"] == facts[str(folder)]["tokens_sha256"]
    assert facts[str(file)]["engine"].startswith("xllamacpp")
    contrast = next(
        each for each in found["contrasts"] if each["model"] == str(file) and each["baseline"] == str(folder)
    )
    assert contrast["verdict"] == "no detectable change"


def test_what_the_engine_does_not_load_is_one_line(tmp_path: Path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(AlibiError, match="does not load"), running(file, 64):
        pass


def test_the_tokens_of_the_engine_have_their_bytes(tmp_path: Path):
    folder, file = checkpoint(tmp_path, "gpt2"), tmp_path / "model.gguf"
    run.export(folder, file, verify=False)
    with running(file, 64) as engine:
        pieces = engine.pieces(PAGE)
        assert b"".join(piece for _, piece in pieces).decode() == PAGE
        ids: Any = [number for number, _ in engine.pieces("é猫🙂 a")]
        assert np.isfinite(engine.log_probabilities(ids)).all()
