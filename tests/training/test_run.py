"""alibi train from checkpoint to checkpoint."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from alibi_cli import AlibiError
from alibi_cli.calibration.learnable import slope_bounds
from alibi_cli.conversion.verify import verify
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model
from alibi_cli.runtime import runtime_sources
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.settings.presets import load_preset, presets_folder
from alibi_cli.text.documents import load_text
from alibi_cli.training import train as run
from alibi_cli.training.trainable_slopes import PARAMETER, attach_slopes, settle_slopes
from alibi_cli.training.trainer import training_arguments
from tests.checkpoint.helpers import convert, snapshot
from tests.cli.run import alibi, alibi_here, alibi_inside
from tests.evaluation.helpers import asked, evaluate
from tests.models import save_tiny
from tests.training.helpers import command, device, heal, same_weights, text_file, tiny_converted, weights


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path)


def held_out_nll(model: Path, text: Path) -> float:
    results, _ = evaluate(asked([str(model)], (32,), load_text(files=[text], split_on="blank-line"), device=device()))
    return next(row.nll for row in results.rows if row.status == "ok")


def test_the_result_is_a_checkpoint_of_the_same_kind_that_predicts_better(text: Path, tmp_path: Path) -> None:
    source, out = tiny_converted(tmp_path), tmp_path / "healed"
    (source / "extra").mkdir()
    (source / "extra" / "side.txt").write_text("kept")
    before = snapshot(source)
    other = tmp_path / "held-out"
    other.mkdir()
    held_out = text_file(other, documents=90)
    held_out.write_text("\n\n".join(held_out.read_text().split("\n\n")[40:]))
    report = heal(source, out, text, steps=30, learning_rate=1e-2)
    assert held_out_nll(out, held_out) < held_out_nll(source, held_out) - 1
    after = snapshot(out)
    assert snapshot(source) == before
    assert sorted(after) == sorted(before)
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors", "README.md", "alibi.json"}
    assert all((out / name).read_bytes() == content for name, content in runtime_sources().items())
    assert not list(tmp_path.glob("healed.*")) and report.steps == 30 and report.tokens == 30 * 128

    record = json.loads((out / "alibi.json").read_text())
    converted = json.loads((source / "alibi.json").read_text())
    assert record["slopes"] == converted["slopes"] and record["trained_length"] == 64
    assert record["sha256"] == report.sha256 == {"model.safetensors": after["model.safetensors"]}
    training = record["training"]
    assert training["tokens"] == 3840 and training["source_digest"] == report.source_digest and training["seed"] == 0
    assert len(training["losses"]) == 30 and training["losses"][-1]["ce"] < training["losses"][0]["ce"]
    card = (out / "README.md").read_text()
    assert "not trained" not in card and "3840, 30" in card and "README.source" not in card
    assert (out / "model.safetensors").stat().st_mode == (source / "model.safetensors").stat().st_mode
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert model.config.alibi_slopes == converted["slopes"]
    assert all(
        torch.equal(weights(out)[name], value) for name, value in model.state_dict().items() if name in weights(out)
    )

    again = heal(out, tmp_path / "again", text, steps=2)
    twice = json.loads((tmp_path / "again" / "alibi.json").read_text())["training"]
    assert twice["before"] == training and twice["source"] == str(out) and again.source_digest != report.source_digest


def test_the_control_is_trained_by_the_same_command_on_the_same_text(text: Path, tmp_path: Path) -> None:
    converted = heal(tiny_converted(tmp_path, "gpt2"), tmp_path / "a", text)
    control = heal(tmp_path / "gpt2", tmp_path / "b", text)
    assert control.text == converted.text and control.tokens == converted.tokens and not control.converted
    record = json.loads((tmp_path / "b" / "alibi-training.json").read_text())
    assert (
        record["training"]["steps"] == 6
        and record["verified"]["passed"]
        and not (tmp_path / "b" / "alibi.json").exists()
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b").config.model_type == "gpt2"
    AutoTokenizer.from_pretrained(tmp_path / "b")
    assert control.loads_with == f'AutoModelForCausalLM.from_pretrained("{tmp_path / "b"}")'

    convert(tmp_path / "b", tmp_path / "c", check=False)  # carries the record of the control
    heal(tmp_path / "c", tmp_path / "d", text, steps=1)
    assert verify(tmp_path / "d").passed
    heal(tmp_path / "b", tmp_path / "e", text, steps=1)
    again = json.loads((tmp_path / "e" / "alibi-training.json").read_text())["training"]
    assert again["steps"] == 1 and again["before"] == record["training"]


def test_how_a_step_is_computed_does_not_change_it(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    whole = heal(source, tmp_path / "whole", text)
    variants: dict[str, Any] = {"parts": {"batch_size": 1}, "recomputed": {"gradient_checkpointing": True}}
    for name, settings in variants.items():
        found = heal(source, tmp_path / name, text, **settings)
        assert [row.ce for row in found.losses] == pytest.approx([row.ce for row in whole.losses], rel=1e-5)
    other = heal(source, tmp_path / "seed", text, seed=1)
    assert [row.ce for row in other.losses] != pytest.approx([row.ce for row in whole.losses], rel=1e-3)
    rough = heal(source, tmp_path / "rough", text, dtype="bfloat16")
    assert [row.ce for row in rough.losses] == pytest.approx([row.ce for row in whole.losses], rel=3e-2)
    assert weights(tmp_path / "rough")["model.norm.weight"].dtype == torch.float32


def test_the_teacher_teaches_and_is_not_trained(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, models = tiny_converted(tmp_path, initializer_range=0.25), []
    real = run.load_model

    def recording(*args: Any) -> Any:
        models.append(real(*args))
        return models[-1]

    monkeypatch.setattr(run, "load_model", recording)
    settings: dict[str, Any] = dict(teacher=str(tmp_path / "llama"), steps=60, learning_rate=3e-3, hidden_weight=0.1)
    report = heal(source, tmp_path / "healed", text, kd_weight=0.9, **settings)
    student, teacher = models[:2]
    on_disk = weights(tmp_path / "llama")
    for name, parameter in teacher.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad and not teacher.training
        assert torch.equal(parameter, on_disk[name])
    assert not torch.equal(student.model.norm.weight, on_disk["model.norm.weight"])
    first, last = report.losses[0], report.losses[-1]
    assert first.kd is not None and last.kd is not None and last.kd < 0.9 * first.kd
    assert first.loss == pytest.approx(0.1 * first.ce + 0.9 * first.kd + 0.1 * first.hidden, rel=1e-5)
    assert report.teacher_digest is not None and report.kd_weight == 0.9


def test_weights_keep_their_types_on_disk(text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "llama")
    AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.bfloat16).save_pretrained(tmp_path / "llama")
    source = tiny_converted(tmp_path)
    heal(source, tmp_path / "healed", text)
    assert {tensor.dtype for tensor in weights(tmp_path / "healed").values()} == {torch.bfloat16}
    assert not same_weights(source, tmp_path / "healed")


@pytest.mark.parametrize("family", ["bloom", "opt", "qwen3_moe"])
def test_other_families(family: str, text: Path, tmp_path: Path) -> None:
    report = heal(tiny_converted(tmp_path, family), tmp_path / "healed", text, steps=2)
    assert report.packed is (family == "qwen3_moe") and report.verified.passed


def test_models_that_fill_in_masked_tokens(text: Path, tmp_path: Path) -> None:
    save_tiny("bert", tmp_path / "bert", max_position_embeddings=64)
    source = tiny_converted(tmp_path, "bert")
    with pytest.raises(AlibiError, match="no mask token"):
        heal(source, tmp_path / "healed", text)
    tokenizer = AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")
    tokenizer.mask_token = tokenizer.convert_ids_to_tokens(3)
    for folder in (source, tmp_path / "bert"):
        tokenizer.save_pretrained(folder)
    report = heal(source, tmp_path / "healed", text, steps=20, learning_rate=1e-2, teacher=str(tmp_path / "bert"))
    assert report.losses[-1].ce < report.losses[0].ce and not report.packed
    assert report.loads_with.startswith("AutoModelForMaskedLM")


def test_sequences_change_their_length_and_nothing_else(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    settings: dict[str, Any] = dict(length=None, length_schedule=((16, 0.5), (32, 0.5)))
    staged = heal(source, tmp_path / "staged", text, **settings)
    assert [(stage.length, stage.steps) for stage in staged.lengths] == [(16, 3), (32, 3)]
    scaled = heal(source, tmp_path / "scaled", text, train_sequence_length_scaling=0.25)
    assert [stage.length for stage in scaled.lengths] == [8] and scaled.tokens == staged.tokens
    assert heal(source, tmp_path / "default", text, length=None, steps=1).lengths[0].length == 64


def test_bad_input_is_refused_before_anything_is_written(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    save_tiny("gpt2", tmp_path / "other", max_position_embeddings=64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["bias"])
    tokenizer.save_pretrained(tmp_path / "other")
    save_tiny("t5", tmp_path / "t5")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "precious").touch()
    (tmp_path / "empty.txt").write_text("\n")
    before = snapshot(tmp_path)
    cases: list[tuple[list[object], str]] = [
        ([source, "-o", tmp_path / "x"], "--tokens or as --steps"),
        ([source, "-o", tmp_path / "full", "--steps", 1], "not empty"),
        ([source, "-o", source, "--steps", 1], "overlap"),
        ([source, "-o", tmp_path / "out", "--steps", 1, "--text", text], "holds no training"),
        ([source, "-o", tmp_path / "x", "--steps", 1, "--teacher", tmp_path / "other"], "not have the same tokens"),
        ([tmp_path / "llama", "-o", tmp_path / "x", "--steps", 1, "--batch-tokens", 100], "not a multiple"),
        ([tmp_path / "other", "-o", tmp_path / "x", "--steps", 1, "--length", 1024], "positions for 64 tokens"),
        ([tmp_path / "t5", "-o", tmp_path / "x", "--steps", 1], "encoder-decoder"),
        ([tmp_path / "absent", "-o", tmp_path / "x", "--steps", 1], "There is no folder"),
        ([source, "-o", tmp_path / "x", "--steps", 1, "--text", text, "--dataset", "a:b"], "not both"),
        ([source, "-o", tmp_path / "x", "--steps", 1, "--text", tmp_path / "empty.txt"], "holds no text"),
        ([source, "-o", tmp_path / "x", "--steps", 1, "--report-to", "nothing"], "nothing"),
        (
            [source, "-o", tmp_path / "x", "--steps", 1, "--fsdp", "full_shard", "--device", "cpu"],
            "over the accelerators",
        ),
        (
            [source, "-o", tmp_path / "x", "--steps", 1, "--deepspeed", tmp_path / "absent.json"],
            "cannot read",
        ),
    ]
    for arguments, says in cases:
        result = alibi_here("train", *map(str, arguments))
        assert result.exit_code == 2, (arguments, result.exit_code)
        assert says in result.error.message and result.stdout == "", (arguments, result.error.message)
    for option, value in [("--length-schedule", "512"), ("--steps", "0"), ("--kd-weight", "2"), ("--dtype", "int8")]:
        assert alibi_here("train", source, "-o", tmp_path / "x", option, value).exit_code == 2
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("at", ["text", "state"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(at: str, text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path, intermediate_size=1024)
    if at == "text":
        text.write_text("the bias of a head " * 20_000)
    before = snapshot(tmp_path)
    run = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-", *command(source, tmp_path / "out", text, "--steps", "1")]
    result = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert (
        result.returncode == 1
        and f"Cannot write {tmp_path / 'out.training'}: " in result.stderr
        and "File too large" in result.stderr
    )
    assert "not expected" not in result.stderr and snapshot(tmp_path) == before


def test_the_command_prints_facts_and_json(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    shown = alibi_here(*command(source, tmp_path / "a", text, "--steps", "3")[3:]).stdout
    assert "loss " in shown and "3 steps of 128" in shown and "in memory by 0.0e+00" in shown
    once = alibi_here(*command(source, tmp_path / "c", text, "--steps", "1")[3:]).stdout
    assert "1 step of 128" in once and "32 for 1 step\n" in once and "1 process\n" in once
    assert "| sequence length | 32 for 1 step |" in (tmp_path / "c" / "README.md").read_text()
    result = alibi(*command(source, tmp_path / "b", text, "--steps", "3", "--json")[3:])
    report = json.loads(result.stdout)
    assert report["steps"] == 3 and report["command"].startswith("alibi train ") and report["verified"]["passed"]
    assert "Next: alibi eval" not in result.stdout and "Traceback" not in result.stderr
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_the_preset_says_what_the_defaults_are() -> None:
    _, _, chosen = load_preset("heal")
    defaults = TrainSettings(checkpoint="m", output=Path("o"))
    assert chosen and {name: getattr(defaults, name) for name in chosen} == chosen
    help_text = alibi("train", "--help", env={"COLUMNS": "200"}).stdout
    assert f"[default: {chosen['learning_rate']:g}]" in help_text and f"[default: {chosen['kd_weight']:g}]" in help_text


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "bloom"])
def test_slopes_train_on_request_and_are_written_as_numbers(family: str, text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path, family)
    still = heal(source, tmp_path / "still", text, steps=12)
    moving = heal(source, tmp_path / "moving", text, steps=12, train_slopes=True, weight_decay=0.1)
    assert moving.train_slopes and not still.train_slopes and moving.losses[0].ce == pytest.approx(still.losses[0].ce)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "moving"))
    assert {**before, "alibi_slopes": None} == {**after, "alibi_slopes": None}
    assert not any("alibi" in name for name in weights(tmp_path / "moving"))
    record = json.loads((tmp_path / "moving" / "alibi.json").read_text())
    assert record["slopes"] == after["alibi_slopes"] != before["alibi_slopes"]
    assert (
        record["slopes_scheme"].endswith(", trained")
        and "| slopes | trained |" in (tmp_path / "moving" / "README.md").read_text()
    )
    assert (
        alibi_inside("verify", tmp_path / "moving").returncode
        == alibi_inside("verify", tmp_path / "still").returncode
        == 0
    )
    kept = json.loads((tmp_path / "still" / "config.json").read_text())
    assert kept == before
    with pytest.raises(AlibiError, match="is not converted and has no slopes") as error:
        heal(tmp_path / family, tmp_path / "none", text, train_slopes=True)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_in_the_share_of_steps_that_was_asked_for(decay: str, tmp_path: Path) -> None:
    request = TrainSettings(checkpoint="m", output=Path("o"), steps=10, decay=decay, learning_rate=1.0, device=device())
    args = training_arguments(request, tmp_path, steps=10, warmup_steps=4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    shape = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, args.max_steps).lr_lambdas[0]
    rates = [shape(step) for step in range(10)]
    assert rates[:5] == [0, 0.25, 0.5, 0.75, 1] and (rates[9] == 1 if decay == "constant" else rates[9] < 0.2)


def test_slopes_end_within_their_bounds(tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    model = load_model(describe(str(source)), device(), "float32")
    attach_slopes(model, 64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(PARAMETER):
                parameter[0], parameter[-1] = -9.0, 9.0  # where a last, long step might leave them
    settle_slopes(model)
    gentlest, steepest = slope_bounds(64)
    for row in model.config.alibi_slopes:
        assert (row[0], row[-1]) == pytest.approx((gentlest, steepest), rel=1e-5)
    assert not any(name.endswith(PARAMETER) for name, _ in model.named_parameters())


def test_a_card_of_another_encoding_does_not_cost_the_training(text: Path, tmp_path: Path) -> None:
    source = tiny_converted(tmp_path)
    (source / "README.md").write_bytes("# Café\n".encode("latin-1"))
    heal(source, tmp_path / "out", text, steps=1)
    assert (tmp_path / "out" / "README.md").read_text().startswith("# llama-alibi, trained further")


def test_text_comes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_converted(tmp_path)
    written = text_file(tmp_path, documents=2000).read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(written)))
    report = heal(source, tmp_path / "out", Path("-"), steps=1)
    assert report.text["name"] == "-, chosen pieces" and report.text["bytes"] < len(written) / 2
