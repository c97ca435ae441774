"""alibi convert --slopes calibrated, and alibi inspect heads, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from alibi_cli import convert
from alibi_cli.calibration import inspect_heads as heads_report
from alibi_cli.calibration.inspect_heads import inspect_heads
from alibi_cli.calibration.replaced import calibrate_replaced
from alibi_cli.calibration.windows import Parts, make_windows
from alibi_cli.conversion import reload_check as verify
from alibi_cli.errors import AlibiError
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.surgery.apply import apply_alibi
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_here
from tests.models import sample_tokens, save_tiny, tiny_model

ON = ("--slopes", "calibrated", "--calibration-tokens", "1200", "--json")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"line {i}: the quick brown fox jumps over {i * i} lazy dogs\n" for i in range(200)))
    return path


def converted(source: Path, output: Path, text: Path, *options: str) -> dict:
    result = alibi_here("convert", source, "-o", output, "--calibration-text", text, *ON, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["look-back", "distil", "distil+norms"])
def test_a_calibrated_checkpoint_is_written_verified_and_says_what_changed(family, method, tmp_path, text):
    source, output = save_tiny(family, tmp_path / "source"), tmp_path / "out"
    report = converted(source, output, text, "--calibrate", method)
    assert report["verified"]["passed"]
    assert report["slopes_scheme"] == f"calibrated, {method}"
    assert len(report["slopes"]) == 2 and len(report["slopes"][0]) == 6
    before, after = load_file(source / "model.safetensors"), load_file(output / "model.safetensors")
    changed = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed == set(report["tensors"]["changed"])
    assert bool(changed) == (method == "distil+norms") and all("norm" in n or "ln_" in n for n in changed)
    assert after.keys() - before.keys() == set(report["tensors"]["added"])
    assert report["tensors"]["added"] == (["transformer.wpe.vector"] if family == "gpt2" else [])
    card, record = (output / "README.md").read_text(), json.loads((output / "alibi.json").read_text())
    assert all(f"`{name}`" in card for name in [*changed, *report["tensors"]["added"]])
    assert record["calibration"]["method"] == method and record["calibration"]["heads_of_the_original"]["mean_distance"]
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    model(input_ids=sample_tokens(1, 60)).logits.sum().backward()
    if family == "gpt2":
        assert model.transformer.wpe.vector.abs().max() > 0
        model.save_pretrained(tmp_path / "again")  # the vector is a parameter like any other
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
        assert torch.equal(again(input_ids=sample_tokens(1, 9)).logits, model(input_ids=sample_tokens(1, 9)).logits)


def test_a_dry_run_names_what_a_calibration_would_write(tmp_path, text):
    source = save_tiny("gpt2", tmp_path / "source")
    planned = alibi_here("convert", source, *ON[:2], "--calibrate", "distil+norms", "--dry-run", "--json")
    done = converted(source, tmp_path / "out", text, "--calibrate", "distil+norms")
    assert json.loads(planned.stdout)["tensors"] == done["tensors"]


@pytest.mark.parametrize("kind", ["sharded", "pickled", "base model", "bfloat16", "large"])
def test_sources_of_every_kind(kind, tmp_path, text, monkeypatch):
    if kind == "large":  # verified from the disk
        monkeypatch.setattr(verify, "WHOLE_BYTES", 0)
    source = save_tiny("gpt2", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    if kind == "pickled":
        (source / "model.safetensors").unlink()
        torch.save(weights, source / "pytorch_model.bin")
    elif kind == "base model":  # as the Hub's gpt2 is stored
        weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    else:
        model = AutoModelForCausalLM.from_pretrained(source)
        shutil.rmtree(source)
        save_tiny("gpt2", source)
        (source / "model.safetensors").unlink()
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        model.to(dtype).save_pretrained(source, max_shard_size="60kB" if kind == "sharded" else "1GB")
    report = converted(source, tmp_path / "out", text, "--calibrate", "distil+norms")
    assert report["verified"]["passed"] and report["tensors"]["changed"] and report["tensors"]["added"]
    assert report["verified"]["layers"] == ([0, 1] if kind == "large" else None)
    if kind == "bfloat16":
        assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_masked_model_is_calibrated_on_its_masked_tokens(tmp_path, text):
    source = save_tiny("bert", tmp_path / "source")
    tokenizer = load_tokenizer(describe(str(source)))
    tokenizer.add_special_tokens({"mask_token": "<|endoftext|>"})
    tokenizer.save_pretrained(source)
    report = converted(source, tmp_path / "out", text)
    kl = report["calibration"]["kl_nats_per_token"]
    assert kl["end"] < kl["press"]
    windows = make_windows(Text("t", [("t", text.read_text())]), tokenizer, 24, 480, masked=True)
    assert 0 < windows.compared.sum() < windows.compared.numel() / 4
    assert (windows.input_ids[windows.compared] == tokenizer.mask_token_id).all()


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert", "gpt_neo", "biogpt", "openai", "gpt_bigcode", "distilbert"])
def test_the_vector_is_added_to_every_embedding(family):
    model = tiny_model(family)
    apply_alibi(model, 64, position_vector=True)
    name = next(name for name, _ in model.named_parameters() if name.endswith(".vector"))
    tokens, vector = sample_tokens(2, 40), torch.linspace(-1, 1, model.get_parameter(name).numel()).double()
    embedded = model.get_input_embeddings()(tokens).detach()
    if family == "biogpt":
        embedded = (
            embedded * model.base_model.embed_tokens.embed_scale
            if not hasattr(model.get_input_embeddings(), "embed_scale")
            else embedded
        )
    plain, shifted = (model(inputs_embeds=e).logits for e in (embedded, embedded + vector))
    model.get_parameter(name).data.copy_(vector)
    found = model(input_ids=tokens).logits
    assert (found - shifted).abs().max() < 1e-10
    assert (found - plain).abs().max() > 1e-3


def test_calibration_twice_is_the_same(tmp_path, text):
    source = save_tiny("llama", tmp_path / "source")
    first, second = (converted(source, tmp_path / name, text) for name in ("a", "b"))
    assert first["slopes"] == second["slopes"]


def test_the_original_may_be_loaded_once_and_is_not_copied(tmp_path):
    info = describe(str(save_tiny("llama", tmp_path / "source")))
    model, tokenizer = load_model(info), load_tokenizer(info)
    windows = make_windows(Text("t", [("t", "abcdefghij" * 200)]), tokenizer, 24, 1000)
    found = calibrate_replaced(model, Parts.of(windows, 30 * 24), method="look-back")
    theirs = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in found.converted.parameters()} == theirs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--calibrate", "look-back"), "needs --slopes calibrated"),
        (("--calibration-tokens", "5"), "needs --slopes calibrated"),
        (("--slopes", "calibrated", "--max-bias", "16"), "cannot be combined"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path):
    result = alibi_here("convert", save_tiny("llama", tmp_path / "source"), *options)
    assert result.exit_code == 2 and message in result.error.message


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    source, output = save_tiny("llama", tmp_path / "source"), tmp_path / "out"
    result = alibi_here("convert", source, "-o", output, "--calibration-text", short, *ON)
    assert result.exit_code == 2 and "two windows of 24" in result.error.message
    encoder_decoder = save_tiny("t5", tmp_path / "t5")
    result = alibi_here("convert", encoder_decoder, "-o", output, *ON)
    assert result.exit_code == 2 and "encoder-decoder" in result.error.message
    assert not output.exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("option", ["--plot", "-o"])
def test_inspect_heads_of_both_kinds(option, tmp_path, text):
    source, output, picture = save_tiny("gpt2", tmp_path / "source"), tmp_path / "out", tmp_path / "heads.png"
    report = converted(source, output, text, "--calibrate", "look-back")
    common = ("--text", text, "--tokens", "480")
    original = json.loads(alibi_here("inspect", "heads", source, *common, "--json").stdout)
    after = json.loads(alibi_here("inspect", "heads", output, *common, "--json", option, picture).stdout)
    assert original["slopes"] is None and after["slopes"] == report["slopes"]
    assert original["window"] == after["window"] == original["trained_length"] == 24
    assert original["mean_distance"] != after["mean_distance"]
    assert original["sinks"] == 4
    assert original["sink_weight"][0][0] > original["first_token_weight"][0][0]
    assert original["mean_distance_without_sinks"] != original["mean_distance"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = alibi_here("inspect", "heads", output, *common).stdout
    distances = [each for layer in after["mean_distance"] for each in layer]
    assert "slope m" in shown and f"median {np.median(distances):.3g};" in shown
    assert f"{after['mean_distance'][1][5]:.1f}" not in shown.split("median")[0].split()  # a picture and no table
    assert "weight on the sinks" in shown and "distance, no sinks" in shown
    assert alibi_here("inspect", "heads", source, *common, "--length", "25").exit_code == 2
    assert alibi_here("inspect", "heads", source, *common, "--sinks", "24").exit_code == 2


def test_inspect_heads_without_sinks_shows_the_first_token(tmp_path, text):
    source = save_tiny("llama", tmp_path / "source")
    command = ("inspect", "heads", source, "--text", text, "--tokens", "96", "--sinks", "0")
    report = json.loads(alibi_here(*command, "--json").stdout)
    assert report["mean_distance_without_sinks"] == report["mean_distance"]
    shown = alibi_here(*command).stdout
    assert "weight on first token" in shown and "sinks" not in shown


def test_windows_of_long_models_are_short_unless_asked_for(tmp_path, text, monkeypatch):
    monkeypatch.setattr(heads_report, "DEFAULT_LONGEST", 16)
    source = save_tiny("llama", tmp_path / "source")
    common = ("inspect", "heads", source, "--text", text, "--tokens", "96")
    assert "96 tokens of text.txt in windows of 16 (trained length 24)" in alibi_here(*common).stdout
    assert json.loads(alibi_here(*common, "--length", "24", "--json").stdout)["window"] == 24
    seen = []
    inspect_heads(str(source), text=[text], tokens=96, progress=lambda step: seen.append((step.done, step.of)))
    assert seen == [(0, 1), (1, 1)]
    monkeypatch.setattr(heads_report, "WEIGHTS_PER_BATCH", 6 * 16 * 16)  # room for the weights of one window
    inspect_heads(str(source), text=[text], tokens=96, progress=lambda step: seen.append((step.done, step.of)))
    assert seen[2:] == [(done, 6) for done in range(7)]


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (shutil.rmtree, "Cannot read .*model.safetensors: No such file"),
        (lambda source: (source / "model.safetensors").unlink(), "Cannot read .*model.safetensors: No such file"),
        (lambda source: (source / "config.json").unlink(), "config.json changed while it was being converted"),
        (lambda source: (source / "tokenizer.json").unlink(), "tokenizer.json changed while it was being converted"),
        (lambda source: _flip(source / "model.safetensors"), "model.safetensors changed while it was being converted"),
    ],
    ids=["folder", "weights", "config", "tokenizer", "a byte"],
)
def test_a_source_that_goes_away_during_calibration_leaves_nothing_half_written(happens, said, tmp_path, text):
    source, waiting = save_tiny("llama", tmp_path / "source"), [True]

    def watch(progress: Any) -> None:
        if progress.what.startswith("Fitting") and waiting:
            waiting.clear()
            happens(source)

    settings = {"policy": "add", "slopes": "calibrated", "calibration_text": [text], "progress": watch}
    with pytest.raises(AlibiError, match=said):
        convert(source, tmp_path / "out", **settings)
    assert not waiting and {path.name for path in tmp_path.iterdir()} <= {"source", "out.calibration"}
    shutil.rmtree(source, ignore_errors=True)
    save_tiny("llama", source)
    assert convert(source, tmp_path / "out", **settings).verified.passed
