"""alibi convert, on real folders."""

import hashlib
import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto

from alibi_cli import AlibiError
from alibi_cli.conversion.writer import write
from alibi_cli.files.atomic import MARKER
from alibi_cli.models.source import open_source
from alibi_cli.runtime import runtime_sources
from tests.checkpoint.helpers import convert, plan_of, snapshot
from tests.cli.run import alibi_inside, alibi_json
from tests.models import FAMILIES, OWN_BIAS, save_tiny, tiny_config, tiny_model


def test_command_line_and_json(tiny_gpt2: Path, tmp_path: Path) -> None:
    before = snapshot(tiny_gpt2)
    report = alibi_json("convert", tiny_gpt2, "-o", tmp_path / "out", "--max-sequence-length", "96")
    assert {
        "output",
        "source",
        "base_model_type",
        "model_type",
        "policy",
        "slopes",
        "tensors",
        "bytes_written",
        "seconds",
        "verified",
    } <= set(report)
    assert (report["base_model_type"], report["model_type"]) == ("gpt2", "alibi_gpt2")
    assert report["tensors"] == {"copied": 27, "dropped": ["transformer.wpe.weight"], "added": [], "changed": []}
    assert report["verified"]["passed"] and report["verified"]["max_abs_logit_difference"] <= 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_positions"] == config["alibi_max_sequence_length"] == 96
    assert snapshot(tiny_gpt2) == before
    assert not (tmp_path / "out.partial").exists()


def test_everything_that_is_not_weights_is_carried(tiny_llama: Path, tmp_path: Path) -> None:
    (tiny_llama / "chat_template.jinja").write_text("{{ messages }}")
    (tiny_llama / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# Mine\n")
    (tiny_llama / "extra").mkdir()
    (tiny_llama / "extra" / "note.txt").write_text("kept")
    (tiny_llama / "optimizer.pt").write_bytes(b"stale")
    convert(tiny_llama, tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "extra" / "note.txt").read_text() == "kept"
    assert (out / "generation_config.json").read_bytes() == (tiny_llama / "generation_config.json").read_bytes()
    assert (out / "README.source.md").read_text().endswith("# Mine\n")
    assert not (out / "optimizer.pt").exists() and not (out / MARKER).exists()
    card = (out / "README.md").read_text()
    assert "license: mit" in card and "alibi convert" in card and "not trained after the change" in card
    assert {name: (out / name).read_bytes() for name in runtime_sources()} == runtime_sources()


def test_a_card_says_what_was_done(tmp_path: Path) -> None:
    """Nothing is claimed of a model that had ALiBi, nor of weights where there is none that changed."""
    bloom, gpt2 = save_tiny("bloom", tmp_path / "bloom"), save_tiny("gpt2", tmp_path / "gpt2")
    cards = []
    for source, settings in ((bloom, {}), (bloom, {"max_bias": 6.0}), (gpt2, {})):
        convert(source, tmp_path / "out", force=True, **settings)
        cards.append((tmp_path / "out" / "README.md").read_text())
    as_it_was, other, replaced = cards
    assert "with the linear biases that it was trained with" in as_it_was and "No weight was changed." in as_it_was
    assert "with other slopes for the linear biases that it was trained with" in other
    assert "expect a higher perplexity" in other and "expect a higher perplexity" not in as_it_was
    assert "positional encoding replaced" in replaced and "No other weight was changed." in replaced


def test_alibi_json_has_the_digest_of_every_shard(tiny_gpt2: Path, tmp_path: Path) -> None:
    convert(tiny_gpt2, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "alibi.json").read_text())
    assert facts["sha256"] == {
        "model.safetensors": hashlib.sha256((tmp_path / "out" / "model.safetensors").read_bytes()).hexdigest()
    }
    assert facts["verified"]["passed"] and facts["versions"]["transformers"] == transformers.__version__
    assert facts["slopes"] == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]


def test_kept_tensors_keep_their_bytes(tiny_gpt2: Path, tmp_path: Path) -> None:
    convert(tiny_gpt2, tmp_path / "out")
    before, after = load_file(tiny_gpt2 / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(before) - set(after) == {"transformer.wpe.weight"}
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_files_get_the_mode_that_the_umask_says(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors").chmod(0o600)
    before = os.umask(0o027)
    try:
        convert(tiny_gpt2, tmp_path / "out")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()} == {0o640}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_converts_and_loads_by_the_code_that_it_carries(family: str, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / "source")
    report = convert(source, tmp_path / "out", max_sequence_length=100)
    assert report.verified is not None and report.verified.passed
    auto = report.loads_with.split(".")[0]
    target = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"][auto]
    cls = get_class_from_dynamic_module(target, tmp_path / "out")
    assert cls.__module__.startswith("transformers_modules.")
    model, loading = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.config.model_type == f"alibi_{report.base_model_type}" and model.config.max_position_embeddings == 100
    assert type(model).__name__.startswith("Alibi")
    assert AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)("héllo").input_ids
    installed = getattr(transformers, auto).from_pretrained(tmp_path / "out")  # the package is imported here
    assert type(installed).__name__ == cls.__name__ and type(installed).__module__.startswith("alibi_cli.")


def test_sharded_source_keeps_its_shards_and_index(tmp_path: Path) -> None:
    model = tiny_model("gpt2", torch.float32, vocab_size=257)
    model.save_pretrained(tmp_path / "source", max_shard_size="60kB")
    source = open_source(str(tmp_path / "source"))
    assert len(source.shards) > 2
    convert(tmp_path / "source", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = {name: file.name for file in (tmp_path / "out").glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == held and "transformer.wpe.weight" not in held
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for file in (tmp_path / "out").glob("*.safetensors") for t in load_file(file).values()
    )


def test_names_without_the_base_model_prefix(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor.clone() for name, tensor in tensors.items()}
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    report = convert(source, tmp_path / "out")
    assert report.tensors.dropped == ["wpe.weight"] and report.verified.passed


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    tiny_model("llama", torch.float32).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "out")
    assert report.verified.passed
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "source" / "model.safetensors"
    ).read_bytes()


def test_pickled_weights_become_safetensors(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]  # tied, as older files have it
    torch.save(tensors, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    report = convert(source, tmp_path / "out")
    assert report.verified.passed and report.tensors.dropped == ["transformer.wpe.weight"]
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(after[name], tensors[name]) for name in after) and set(tensors) - set(after) == {
        "transformer.wpe.weight"
    }
    assert not list((tmp_path / "out").glob("*.bin"))


def test_dry_run_prints_the_plan_and_touches_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    text = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out", "--dry-run").stdout
    for part in ("transformer.wpe.weight", "27 of 28", "free", "trust_remote_code=True", "alibi_gpt2"):
        assert part in text
    plan = alibi_json("inspect", "plan", tiny_gpt2, "-o", tmp_path / "out", run=alibi_inside)
    assert plan["tensors"]["dropped"] == ["transformer.wpe.weight"] and plan["free_bytes"] > 0
    assert plan == {
        **alibi_json("convert", tiny_gpt2, "-o", tmp_path / "out", "--dry-run"),
        "free_bytes": plan["free_bytes"],
    }
    assert snapshot(tmp_path) == before


def test_the_plan_is_what_happens(tiny_gpt2: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny_gpt2, tmp_path / "out")
    report = write(plan)
    assert (report.tensors.copied, report.tensors.dropped, report.tensors.added) == (
        len(plan.copied),
        plan.dropped,
        plan.added,
    )
    weights = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert abs(plan.bytes_to_write - weights - sum(path.stat().st_size for path in plan.carried)) < 1000


def test_slopes_from_options_and_files(tiny_gpt2: Path, tmp_path: Path) -> None:
    assert alibi_json("inspect", "plan", tiny_gpt2, "--max-bias", "16", run=alibi_inside)["slopes"] == [
        2.0**-e for e in (4, 8, 12, 16, 2, 6)
    ]
    good = [[0.5, 0.25, 0.1, 0.05, 0.02, 0.01], [1, 2, 3, 4, 5, 6]]
    for content in (good[0], good):
        (tmp_path / "slopes.json").write_text(json.dumps(content))
        report = convert(tiny_gpt2, tmp_path / "out", force=True, slopes=str(tmp_path / "slopes.json"))
        assert report.slopes == content and report.verified.passed
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
        assert model.config.alibi_slopes == content
        assert model.transformer.h[1].attn.alibi_slopes == (content[1] if content is good else content)
    for bad in (
        [0.5],
        good[:1],
        [0, *good[0][1:]],
        [-1.0] * 6,
        ["a"] * 6,
        {},
        [[0.5] * 6, [0.5] * 5],
        [float("nan")] * 6,
    ):
        (tmp_path / "slopes.json").write_text(json.dumps(bad))
        with pytest.raises(AlibiError, match=r"slopes") as error:
            plan_of(tiny_gpt2, tmp_path / "o", slopes=str(tmp_path / "slopes.json"))
        assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "cls",
    [
        "LlamaForSequenceClassification",
        "GPT2ForTokenClassification",
        "BertForMultipleChoice",
        "BertForQuestionAnswering",
    ],
)
def test_other_heads_convert_and_load_through_their_auto_class(cls: str, tmp_path: Path) -> None:
    family = "bert" if cls.startswith("Bert") else "llama" if cls.startswith("Llama") else "gpt2"
    model = getattr(transformers, cls)(tiny_config(family))
    model.save_pretrained(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "out")
    assert report.verified.passed
    auto = getattr(transformers, report.loads_with.split(".")[0])
    reloaded, loading = auto.from_pretrained(tmp_path / "out", trust_remote_code=True, output_loading_info=True)
    assert type(reloaded).__name__ == f"Alibi{cls}" and not loading["missing_keys"]


@pytest.mark.parametrize("cls", ["BertModel", "LlamaModel"])
def test_a_body_without_a_head_loads_with_the_auto_class_that_everybody_expects(cls: str, tmp_path: Path) -> None:
    getattr(transformers, cls)(tiny_config("bert" if cls == "BertModel" else "llama")).save_pretrained(
        tmp_path / "source"
    )
    report = convert(tmp_path / "source", tmp_path / "out")
    assert report.verified.passed and report.loads_with.startswith("AutoModel.from_pretrained(")
    assert "AutoModelForTextEncoding" not in (tmp_path / "out" / "README.md").read_text()


def test_a_rotation_whose_scale_depends_on_the_maximum_length(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 8,
    }
    tiny_model("phi3", torch.float32, rope_parameters=rope, original_max_position_embeddings=8).save_pretrained(
        tmp_path / "source"
    )
    report = convert(tmp_path / "source", tmp_path / "out", max_sequence_length=4096)
    assert report.verified.passed
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["alibi_rotary_scaling"] == pytest.approx((1 + math.log(24 / 8) / math.log(8)) ** 0.5)


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_BIAS])
def test_every_head_of_a_converted_checkpoint_loads_without_a_question(family: str, tmp_path: Path) -> None:
    """auto_map lists every head that the base has; some build the model below them through AutoModel."""
    source = save_tiny(family, tmp_path / "source")
    convert(source, tmp_path / "out", check=False, max_sequence_length=100)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    heads = [name for name in config["auto_map"] if name.startswith("AutoModel")]
    base = type(transformers.AutoConfig.from_pretrained(source))
    mappings = {
        name: getattr(transformers, name)._model_mapping
        for name in vars(modeling_auto)
        if name.startswith("AutoModelFor")
    }
    known = {name: mapping[base] for name, mapping in mappings.items() if base in mapping}
    known = {name: cls[0] if isinstance(cls, tuple) else cls for name, cls in known.items()}
    assert set(heads) - {"AutoModel"} == {name for name, cls in known.items() if cls.config_class is base}
    for name in heads:
        model = getattr(transformers, name).from_pretrained(tmp_path / "out", trust_remote_code=True)
        assert type(model).__name__ == config["auto_map"][name].split(".")[1]
        assert any(hasattr(module, "alibi_slopes") for module in model.modules())


def test_an_architecture_that_no_auto_class_lists(tmp_path: Path) -> None:
    transformers.GPT2DoubleHeadsModel(tiny_config("gpt2")).save_pretrained(tmp_path / "source")
    assert convert(tmp_path / "source", tmp_path / "out").verified.passed


def test_an_mpt_of_a_small_declared_length_is_verified_within_it(tmp_path: Path) -> None:
    """Found by random models: the check fed more tokens than its own bias has room for."""
    source = save_tiny("mpt", tmp_path / "source")
    report = convert(source, tmp_path / "out", max_sequence_length=8)
    assert report.verified is not None and report.verified.passed and report.max_sequence_length == 8
