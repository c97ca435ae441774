"""Whole converted models on registered backends."""

from pathlib import Path

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.attention.in_models import attention_of_models
from alibi_cli.attention.registry import OPTIONS, attention_names, build_attention
from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.tasks.run_task import evaluate_task
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_here, alibi_inside
from tests.models import save_tiny


def converted(family: str, folder: Path, **settings):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny(family, folder)).eval()
    apply_alibi(model, max_sequence_length=64, **settings)
    return model


@pytest.mark.parametrize("name", attention_names())
@pytest.mark.parametrize("settings", [dict(), dict(sinks=3), dict(policy="add", sinks=20)], ids=str)
@torch.no_grad()
def test_logits_and_cached_generation_agree(name: str, settings: dict, tmp_path: Path) -> None:
    model = converted("llama", tmp_path / "llama", **settings)
    tokens = torch.randint(0, 200, (2, 17), generator=torch.Generator().manual_seed(3))
    assert (
        not settings
        or (model(tokens).logits - converted("llama", tmp_path / "plain")(tokens).logits).abs().max() > 1e-2
    )
    expected = model(tokens).logits
    written = model.generate(tokens, max_new_tokens=4, do_sample=False)
    calls = []
    backend = build_attention({"name": name})
    attend = backend.attend
    backend.attend = lambda *args, **options: (calls.append(1), attend(*args, **options))[1]
    with attention_of_models(backend):
        assert (model(tokens).logits - expected).abs().max() < 1e-3
        assert torch.equal(model.generate(tokens, max_new_tokens=4, do_sample=False), written)
    assert len(calls) >= 2 * model.config.num_hidden_layers
    before = len(calls)
    assert torch.equal(model(tokens).logits, expected) and len(calls) == before  # put back


@pytest.mark.parametrize("backend", ["sdpa", "auto"])
@torch.no_grad()
def test_a_checkpoint_gets_back_its_own_attention_and_its_own_mask(backend: str, tmp_path: Path) -> None:
    """Its code registers both under one name. The attention of one copy beside the mask of another makes a bias of length x length."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    out = tmp_path / f"gets_back_{backend}"  # of a name of its own, so that its code has not been imported before
    convert(save_tiny("llama", tmp_path / "llama"), out, check=False)
    carried = get_class_from_dynamic_module("modeling_alibi.AlibiLlamaForCausalLM", str(out))
    model = carried.from_pretrained(out).eval()
    tokens = torch.randint(0, 200, (1, 33))
    functions = [interface()[ATTENTION_NAME] for interface in (AttentionInterface, AttentionMaskInterface)]
    assert {function.__module__.split(".")[0] for function in functions} == {"transformers_modules"}
    expected = model(tokens).logits
    with attention_of_models(build_attention({"name": backend})):
        assert (model(tokens).logits - expected).abs().max() < 1e-3
    assert functions == [interface()[ATTENTION_NAME] for interface in (AttentionInterface, AttentionMaskInterface)]
    assert torch.equal(model(tokens).logits, expected)


@torch.no_grad()
def test_what_a_backend_does_not_compute_is_refused(tmp_path: Path) -> None:
    model = converted("llama", tmp_path / "llama")
    tokens, padding = torch.randint(0, 200, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    padding[0, :3] = 0
    with attention_of_models(build_attention({"name": "eager"})):
        with pytest.raises(AlibiError, match="padding, windows or packing"):
            model(tokens, attention_mask=padding)
        with pytest.raises(AlibiError, match="cannot run this model, whose layers have"):
            converted("gpt_oss", tmp_path / "gpt_oss")(tokens % 50)


@torch.no_grad()
def test_offsets_relative_biases_and_sinks_that_a_backend_does_not_take_are_obstacles(
    tmp_path: Path, monkeypatch
) -> None:
    tokens = torch.randint(0, 200, (2, 9))
    backend = build_attention({"name": "eager"})
    obstacles = {
        "offsets": dict(offsets=[2.0] * 6),
        "sinks": dict(sinks=2),
        "near_sinks": dict(sinks=2, sink_distance=5),
    }
    for option, settings in obstacles.items():
        model = converted("llama", tmp_path / "llama", policy="add", **settings)
        expected, said = model(tokens).logits, []
        with monkeypatch.context() as patch:
            patch.setattr(type(backend.config), f"takes_{option}", False)
            with attention_of_models(backend), pytest.raises(AlibiError, match=f"layers have {OPTIONS[option]}"):
                model(tokens)
            patch.setattr(type(backend.config), "keeps_own", True)
            with attention_of_models(backend, said.append):
                assert torch.equal(model(tokens).logits, expected)
        assert said == [f"the model's own: no backend computes {OPTIONS[option]}"]
    t5 = converted_t5(tmp_path / "t5")
    inputs = dict(input_ids=tokens, decoder_input_ids=tokens.flip(1))
    with (
        attention_of_models(build_attention({"name": "sdpa"})),
        pytest.raises(AlibiError, match="whose layers have a scale of 1"),
    ):
        t5(**inputs)


def converted_t5(folder: Path):
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(save_tiny("t5", folder)).eval()
    apply_alibi(model, max_sequence_length=64, policy="add")
    return model


@torch.no_grad()
def test_auto_leaves_what_no_backend_computes_to_the_model_and_says_so(tmp_path: Path) -> None:
    model, tokens = converted("llama", tmp_path / "llama"), torch.randint(0, 200, (2, 9))
    padding = torch.ones(2, 9, dtype=torch.long)
    padding[0, :3] = 0
    expected, said = model(tokens, attention_mask=padding).logits, []
    with attention_of_models(build_attention({"name": "auto"}), said.append):
        assert torch.equal(model(tokens, attention_mask=padding).logits, expected)
        model(tokens)
    assert (
        len(said) == 2 and "own: no backend computes a mask of padding" in said[0] and said[1].startswith("blocked: ")
    )


def test_tasks_say_what_auto_chose(tiny_llama: Path, tmp_path: Path) -> None:
    alibi_here("convert", tiny_llama, "-o", tmp_path / "converted", "--no-verify")
    arguments = ["task", "listops", tmp_path / "converted", "--lengths", "150", "--samples", "1"]
    assert "blocked: on a CPU" in alibi_here(*arguments, "--attention", "auto", "--verbose").stderr
    quiet = alibi_here(*arguments, "--attention", "auto")
    assert quiet.exit_code == 0 and "blocked" not in quiet.stderr


def test_tasks_refuse_unconverted_models_and_unknown_names(tiny_llama: Path) -> None:
    with pytest.raises(AlibiError, match="not converted: `attention` is for models with ALiBi"):
        evaluate_task("listops", str(tiny_llama), lengths=(150,), attention="eager")
    assert "No such option: --attention" in alibi_inside("eval", "--attention", "eager", code=2).stderr


@pytest.mark.parametrize("name", attention_names())
@torch.no_grad()
def test_what_calibration_writes_for_a_kept_rotation_runs_on_every_backend_that_takes_offsets(
    name: str, tmp_path: Path
) -> None:
    offsets = [[1.0, 4.0, 0.0, 2.0, 9.0, 3.0], [5.0] * 6]
    settings = dict(policy="add", sinks=2, sink_distance=5, offsets=offsets)
    model, backend = converted("llama", tmp_path / "llama", **settings), build_attention({"name": name})
    tokens = torch.randint(0, 200, (2, 17), generator=torch.Generator().manual_seed(3))
    expected = model(tokens).logits
    with attention_of_models(backend):
        if not backend.config.takes_offsets:
            with pytest.raises(AlibiError, match=f"{name!r} cannot run this model, whose layers have offsets"):
                model(tokens)
            return
        assert (model(tokens).logits - expected).abs().max() < 1e-3
    for left_out in ("offsets", "sink_distance"):  # the controls
        other = converted("llama", tmp_path / "llama", **{**settings, left_out: None})
        assert (other(tokens).logits - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gpt_neo", "gptj", "xglm", "openai", "falcon", "bloom", "codegen", "mpt"])
def test_families_that_compute_attention_themselves_are_refused_and_auto_says_so(family: str, tmp_path: Path) -> None:
    model, said = converted(family, tmp_path / family), []
    with (
        attention_of_models(build_attention({"name": "eager"})) as check,
        pytest.raises(AlibiError, match=r"'eager' cannot run this model, whose \w+ computes attention itself"),
    ):
        check(model)
    with attention_of_models(build_attention({"name": "auto"}), said.append) as check:
        check(model)
        check(converted("llama", tmp_path / "llama"))
    assert len(said) == 1 and said[0].startswith("the model's own: its ")


def test_tasks_refuse_a_backend_that_would_not_be_used(tmp_path: Path) -> None:
    convert(save_tiny("gpt_neo", tmp_path / "m"), tmp_path / "out", check=False)
    arguments = dict(lengths=(150,), samples=1, output=tmp_path / "r.json")
    with pytest.raises(AlibiError, match="'eager' cannot run this model, whose GPTNeoSelfAttention computes"):
        evaluate_task("listops", str(tmp_path / "out"), attention="eager", **arguments)
    assert not (tmp_path / "r.json").exists()
