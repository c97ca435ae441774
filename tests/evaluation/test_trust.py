"""alibi eval never lies: kills, edited results, NaN, threads, attention backends, texts that are none."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from transformers import AutoTokenizer

from alibi_cli import AlibiError
from alibi_cli.attention.in_models import attention_of_models
from alibi_cli.attention.registry import attention_names, build_attention
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.text import text_files
from alibi_cli.text.documents import Text, load_text
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_here
from tests.conftest import REPOSITORY
from tests.evaluation.helpers import asked, evaluate
from tests.fuzzing import cases, ran
from tests.models import save_tiny
from tests.python import python

LENGTHS = (8, 16)


@pytest.fixture(scope="module")
def text() -> Text:
    documents = [(name, document[:200]) for name, document in load_text().documents if len(document) > 200]
    return Text("sample", documents[:8])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    convert(save_tiny("llama", folder / "llama"), folder / "llama-alibi", check=False)
    return str(folder / "llama-alibi")


def test_killed_at_any_row_and_resumed(llama: str, tmp_path: Path) -> None:
    """At moments spread over the bytes, and before and after every change of the file system."""
    (tmp_path / "work").mkdir()
    script, count = "tests.evaluation.kill_evaluations", str(cases(8, 400))
    result = python("-m", script, tmp_path / "work", count, llama, cwd=REPOSITORY, timeout=7200)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    ran["kills of alibi eval"] += found["kills"]
    assert found["failures"] == []
    assert found["kills"] >= 40 and set(found["rows"]) == set(range(4))  # with every number of rows, zero to all


def edit_figure(path: Path) -> None:
    results = json.loads(path.read_text())
    results["rows"][0]["perplexity"] = 1.0
    path.write_text(json.dumps(results))


def edit_status(path: Path) -> None:
    results = json.loads(path.read_text())
    results["rows"][0] = {**results["rows"][0], "status": "out_of_range"}
    path.write_text(json.dumps(results))


def edit_record(path: Path) -> None:
    record = path.with_suffix(".nll.safetensors")
    raw = record.read_bytes()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    tensors = load_file(record)
    name = next(name for name in sorted(tensors) if name.endswith(" nll"))
    save_file({**tensors, name: tensors[name] * np.float32(0.5)}, record, metadata=metadata)


def edit_version(path: Path) -> None:
    results = json.loads(path.read_text())
    results["versions"]["torch"] = "0.1"
    path.write_text(json.dumps(results))


def edit_model(path: Path) -> None:
    results = json.loads(path.read_text())
    results["models"][0]["commit"] = "0123abc"
    path.write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (edit_model, r"has changed since .* \(commit\)"),
        (edit_figure, "was changed after it was computed"),
        (edit_status, "was changed after it was computed"),
        (edit_record, "was changed after it was computed"),
        (edit_version, r"versions\.torch: 0\.1 -> "),
    ],
)
def test_an_edited_results_file_is_not_believed(edit, says: str, llama: str, text: Text, tmp_path: Path) -> None:
    request = asked([llama], LENGTHS, text, output=tmp_path / "r.json", resume=True)
    evaluate(request)
    evaluate(request)  # the control: nobody touched it
    edit(tmp_path / "r.json")
    with pytest.raises(AlibiError, match=says) as error:
        evaluate(request)
    assert error.value.exit_code == 2


def test_nan_names_the_first_position_and_token(text: Text, tmp_path: Path) -> None:
    """The embedding of one letter is NaN, so the first loss that is none is the first of the window that the letter is in: attention
    multiplies it by zero before it, and zero times NaN is NaN."""
    folder = save_tiny("llama", tmp_path / "m", tie_word_embeddings=False)
    tensors = load_tensors(folder / "model.safetensors")
    encode = AutoTokenizer.from_pretrained(folder).encode
    tensors["model.embed_tokens.weight"][encode("z")[0]] = float("nan")
    save_tensors(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    documents = [
        ("calm", "no such letter in this one, at all"),
        ("odd", "not yet, not here: it comes, zebra, and more of it"),
    ]
    request = asked(
        [str(folder)], (16, 32), Text("t", documents), protocol="non-overlapping", output=tmp_path / "r.json"
    )
    results, record = evaluate(request)
    first = results.rows[0].first_non_finite
    assert {row.status for row in results.rows} == {"non_finite"} and record == {}
    assert documents[1][1].index("z") in range(17, 32)
    assert (first.document, first.position, first.text) == ("odd", 17, documents[1][1][17])
    assert first.token == encode(first.text)[0] and results.rows[0].nll is None and results.contrasts == []
    (tmp_path / "odd.txt").write_text(documents[1][1])
    result = alibi_here(
        "eval", folder, "--text", tmp_path / "odd.txt", "--lengths", "16,32", "--protocol", "non-overlapping"
    )
    assert result.exit_code == 1 and "first at token 17 (':') of odd.txt" in " ".join(result.stdout.split())


def test_threads_change_nothing(llama: str, text: Text) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(evaluate(asked([llama], (16, 64), text))[1])
    finally:
        torch.set_num_threads(before)
    for key in found[0]:
        assert abs(found[0][key].mean - found[1][key].mean) <= 1e-6
        assert np.abs(found[0][key].nll - found[1][key].nll).max() <= 1e-5


@pytest.mark.parametrize("name", attention_names())
def test_every_attention_backend_gives_the_same(name: str, llama: str, text: Text) -> None:
    request = asked([llama], (16, 64), text, dtype="float64")
    _, expected = evaluate(request)
    with attention_of_models(build_attention({"name": name})):
        _, found = evaluate(request)
    assert all(np.abs(found[key].nll - expected[key].nll).max() <= 1e-6 for key in expected)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_batch_sizes_give_the_same(size: int, llama: str, text: Text) -> None:
    _, expected = evaluate(asked([llama], LENGTHS, text))
    _, found = evaluate(asked([llama], LENGTHS, text, batch_size=size))
    assert all(abs(found[key].mean - expected[key].mean) <= 1e-6 for key in expected)


def test_a_results_file_says_how_to_repeat_it(llama: str, text: Text) -> None:
    results, _ = evaluate(asked([llama], LENGTHS, text, command="alibi eval X"))
    (model,) = results.models
    assert {"python", "alibi-cli", "torch", "transformers", "tokenizers"} == set(results.versions)
    assert all(len(digest) == 64 for digest in (model.digest, model.tokenizer_sha256, results.text.sha256))
    assert (model.dtype, model.attention) == ("float32", ATTENTION_NAME) and model.tokens_sha256
    assert {"name", "targets", "stride", "dtype", "device", "seed"} <= set(results.protocol.model_dump())
    assert results.command == "alibi eval X"


def test_a_tokenizer_that_changes_changes_the_digests(tmp_path: Path, text: Text) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    request = asked([str(folder)], LENGTHS, text, output=tmp_path / "r.json", resume=True)
    evaluate(request)
    with (folder / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(AlibiError, match="has changed since"):
        evaluate(request)


def test_texts_that_cannot_be_scored_are_one_message(llama: str, tmp_path: Path) -> None:
    line, many = tmp_path / "line.txt", tmp_path / "many.txt"
    with line.open("wb") as file:
        file.write(b"x" * 200_000_000)
    with many.open("wb") as file:
        file.write(b"x" * 60_000_000 + b"\n\n" + b"y" * 60_000_000)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "nothing").mkdir()
    for name, options, says in (
        ("line.txt", (), "200,000,000 characters"),
        ("line.txt", ("--split-on", "blank-line"), "200,000,000 characters"),
        ("many.txt", ("--split-on", "blank-line"), "many.txt#0 is a document of 60,000,000"),
        ("empty.txt", (), "no text"),
        ("binary.txt", (), "UTF-8"),
        ("short.txt", (), "No document is long enough"),
        ("short.txt", ("--targets", "8"), "leaves no context"),
        ("nothing", (), "holds no"),
    ):
        started = time.monotonic()
        result = alibi_here("eval", llama, "--text", tmp_path / name, "--lengths", "8,16", *options)
        assert result.exit_code == 2 and says in result.error.message and result.stdout == ""
        assert time.monotonic() - started < 20


def test_a_device_that_never_ends_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_FILE_BYTES", 10_000_000)
    with pytest.raises(AlibiError, match="larger than"):
        load_text(files=[Path("/dev/zero")])


@pytest.mark.parametrize("command", ["eval", "task listops", "inspect heads"])
def test_truncated_weights_are_named_with_what_is_wrong_with_them(command: str, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    options = ["--lengths", "150"] if command != "inspect heads" else []
    result = alibi_here(*command.split(), folder, *options)
    assert result.exit_code == 1 and result.error.message.startswith(f"{weights} is damaged: it has ")
