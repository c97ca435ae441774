"""alibi convert, on real folders."""

import hashlib
import json
import math
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alibi_cli import AlibiError
from alibi_cli.checkpoint.plan import make_plan
from alibi_cli.checkpoint.source import open_source
from alibi_cli.checkpoint.writer import MARKER, write
from alibi_cli.runtime import runtime_sources
from tests.cli.run import alibi, alibi_json
from tests.models import FAMILIES, save_tiny, tiny_config, tiny_model


def convert(source: Path, output: Path, force: bool = False, check: bool = True, **options):
    return write(make_plan(open_source(str(source)), output, **options), force=force, check=check)


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


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
    assert report["tensors"] == {"copied": 27, "dropped": ["transformer.wpe.weight"], "added": []}
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
def test_every_family_converts_and_loads_with_transformers_alone(family: str, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / "source")
    report = convert(source, tmp_path / "out", max_sequence_length=100)
    assert report.verified is not None and report.verified.passed
    auto = getattr(transformers, report.loads_with.split(".")[0])
    model, loading = auto.from_pretrained(tmp_path / "out", trust_remote_code=True, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert model.config.model_type == f"alibi_{report.base_model_type}" and model.config.max_position_embeddings == 100
    assert type(model).__name__.startswith("Alibi")
    assert AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)("héllo").input_ids
    with pytest.raises(ValueError, match="trust_remote_code"):
        auto.from_pretrained(tmp_path / "out", trust_remote_code=False)


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


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    torch.save({"transformer.wte.weight": Canary(tmp_path / "fired")}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    result = alibi("convert", source, "-o", tmp_path / "out", code=1)
    assert (
        "pytorch_model.bin" in result.stderr and not (tmp_path / "fired").exists() and not (tmp_path / "out").exists()
    )


def test_code_beside_a_checkpoint_never_runs(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'fired')!r}).touch()\nclass C: pass\n"
    )
    config = json.loads((tiny_gpt2 / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
    (tiny_gpt2 / "config.json").write_text(json.dumps(config))
    alibi("convert", tiny_gpt2, "-o", tmp_path / "out")
    alibi("eval", tiny_gpt2, tmp_path / "out", "--lengths", "8,16", "--max-segments", "2")
    assert not (tmp_path / "fired").exists()
    assert "evil" not in (tmp_path / "out" / "config.json").read_text()


def test_dry_run_prints_the_plan_and_touches_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    text = alibi("convert", tiny_gpt2, "-o", tmp_path / "out", "--dry-run").stdout
    for part in ("transformer.wpe.weight", "27 of 28", "free", "trust_remote_code=True", "alibi_gpt2"):
        assert part in text
    plan = alibi_json("inspect", "plan", tiny_gpt2, "-o", tmp_path / "out")
    assert plan["tensors"]["dropped"] == ["transformer.wpe.weight"] and plan["free_bytes"] > 0
    assert plan == {
        **alibi_json("convert", tiny_gpt2, "-o", tmp_path / "out", "--dry-run"),
        "free_bytes": plan["free_bytes"],
    }
    assert snapshot(tmp_path) == before


def test_the_plan_is_what_happens(tiny_gpt2: Path, tmp_path: Path) -> None:
    plan = make_plan(open_source(str(tiny_gpt2)), tmp_path / "out")
    report = write(plan)
    assert (report.tensors.copied, report.tensors.dropped, report.tensors.added) == (
        len(plan.copied),
        plan.dropped,
        plan.added,
    )
    weights = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert abs(plan.bytes_to_write - weights - sum(path.stat().st_size for path in plan.carried)) < 1000


def test_slopes_from_options_and_files(tiny_gpt2: Path, tmp_path: Path) -> None:
    assert alibi_json("inspect", "plan", tiny_gpt2, "--max-bias", "16")["slopes"] == [
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
            make_plan(open_source(str(tiny_gpt2)), tmp_path / "o", slopes=str(tmp_path / "slopes.json"))
        assert error.value.exit_code == 2


def test_output_is_refused_or_replaced(tiny_gpt2: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    convert(tiny_gpt2, out)  # an empty folder may be used
    result = alibi("convert", tiny_gpt2, "-o", out, code=2)
    assert "not empty" in result.stderr and "--force" in result.stderr and result.stdout == ""
    (out / "mine.txt").write_text("old")
    alibi("convert", tiny_gpt2, "-o", out, "--force")
    assert not (out / "mine.txt").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny-gpt2"]
    for bad in (tiny_gpt2, tiny_gpt2 / "inside", tmp_path):
        assert alibi("convert", tiny_gpt2, "-o", bad, "--force", code=2).stderr.count("\n") <= 2


def test_a_failed_verification_leaves_nothing_under_the_final_name(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is corrupted between writing and verifying, as a bad disk would; the old folder survives --force."""
    from alibi_cli.checkpoint import writer

    real = writer._write_files

    def corrupting(plan, folder, *args):
        real(plan, folder, *args)
        tensors = load_file(folder / "model.safetensors")
        tensors["transformer.h.0.attn.c_attn.weight"][0, 0] += 0.5
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(writer, "_write_files", corrupting)
    with pytest.raises(AlibiError, match="Verification failed") as error:
        convert(tiny_gpt2, tmp_path / "out")
    assert error.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-gpt2"]


def test_an_interrupted_run_is_cleaned_up_and_a_strangers_folder_is_not(tiny_gpt2: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "precious").touch()
    with pytest.raises(AlibiError, match="not made by an interrupted conversion"):
        convert(tiny_gpt2, tmp_path / "out")
    assert (partial / "precious").exists()
    (partial / MARKER).touch()
    convert(tiny_gpt2, tmp_path / "out")
    assert not partial.exists() and (tmp_path / "out" / "alibi.json").exists()


def test_unsupported_families_name_the_supported_and_the_closest(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox_japanese"}))
    result = alibi("convert", folder, "-o", tmp_path / "out", code=2)
    assert "gpt_neox" in result.stderr.split("closest is")[1] and result.stderr.count("\n") == 1
    assert all(family in result.stderr for family in FAMILIES)


def test_a_converted_checkpoint_is_not_converted_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    convert(tiny_gpt2, tmp_path / "out")
    assert "already converted" in alibi("convert", tmp_path / "out", "-o", tmp_path / "twice", code=2).stderr


def damage(folder: Path, how: str) -> None:  # noqa: PLR0912
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = json.loads(config.read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "long header":
        weights.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    elif how == "header is no JSON":
        weights.write_bytes((4).to_bytes(8, "little") + b"oops")
    elif how == "no weights":
        weights.unlink()
    elif how == "missing shard":
        weights.rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
        )
    elif how == "shard outside":
        weights.rename(folder.parent / "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    elif how == "wrong shapes":
        config.write_text(json.dumps({**content, "n_embd": 96}))
    elif how == "missing tensors":
        config.write_text(json.dumps({**content, "n_layer": 3}))
    elif how == "config is no JSON":
        config.write_text("{")
    elif how == "config is a list":
        config.write_text("[]")
    elif how == "config without type":
        config.write_text("{}")
    elif how == "no config":
        config.unlink()
    elif how == "heads do not divide":
        config.write_text(json.dumps({**content, "n_head": 7}))


DAMAGE = [
    "truncated",
    "long header",
    "header is no JSON",
    "no weights",
    "missing shard",
    "shard outside",
    "wrong shapes",
    "missing tensors",
    "config is no JSON",
    "config is a list",
    "config without type",
    "no config",
    "heads do not divide",
]


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_sources_are_found_before_anything_is_written(how: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    damage(tiny_gpt2, how)
    before = snapshot(tmp_path)
    with pytest.raises(AlibiError) as error:
        convert(tiny_gpt2, tmp_path / "out")
    assert error.value.exit_code in (1, 2) and len(error.value.message.splitlines()) == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "some file"])
def test_no_such_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "some file").touch()
    result = alibi("convert", name, cwd=tmp_path, code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") <= 2 and "Traceback" not in result.stderr


def test_default_output_is_named_after_the_model(tiny_gpt2: Path) -> None:
    alibi("convert", "tiny-gpt2", "--no-verify", cwd=tiny_gpt2.parent)
    assert (tiny_gpt2.parent / "tiny-gpt2-alibi" / "alibi.json").exists()
    assert json.loads((tiny_gpt2.parent / "tiny-gpt2-alibi" / "alibi.json").read_text())["verified"] is None
    shutil.rmtree(tiny_gpt2.parent / "tiny-gpt2-alibi")


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


def test_a_failed_rename_brings_the_old_folder_back(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("old")
    real = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "out.partial":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space"):
        convert(tiny_gpt2, out, force=True)
    assert (out / "precious").read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "tiny-gpt2",
    ]


def test_output_in_the_current_folder_and_odd_side_files(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "README.md").write_text("---\ntitle: a: b\n---\ntext")
    (tiny_gpt2 / "README.source.md").write_text("of an earlier conversion")
    (tmp_path / "here").mkdir()
    alibi("convert", tiny_gpt2, "-o", ".", "--no-verify", cwd=tmp_path / "here")
    assert (tmp_path / "here" / "README.source.md").read_text().endswith("text")
    assert "local folder" in alibi("convert", tiny_gpt2, "--revision", "v1", code=2).stderr


def test_every_head_of_a_converted_checkpoint_loads_without_a_question(tiny_llama: Path, tmp_path: Path) -> None:
    """Some heads build the model below them through AutoModel, which must know the converted class."""
    convert(tiny_llama, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    heads = [name for name in config["auto_map"] if name.startswith("AutoModel")]
    assert {"AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"} <= set(heads)
    for name in heads:
        model = getattr(transformers, name).from_pretrained(tmp_path / "out", trust_remote_code=True)
        assert type(model).__name__ == config["auto_map"][name].split(".")[1]
        assert sum(hasattr(module, "alibi_slopes") for module in model.modules()) == 2


def test_an_architecture_that_no_auto_class_lists(tmp_path: Path) -> None:
    transformers.GPT2DoubleHeadsModel(tiny_config("gpt2")).save_pretrained(tmp_path / "source")
    assert convert(tmp_path / "source", tmp_path / "out").verified.passed


def test_a_single_file_goes_before_an_index_that_an_earlier_save_left(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    assert convert(tiny_gpt2, tmp_path / "out").verified.passed
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_folders_of_others_are_left_alone(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("out.replaced", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    for _ in range(2):
        convert(tiny_gpt2, tmp_path / "out", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.old", "out.replaced", "tiny-gpt2"]
    assert (tmp_path / "out.replaced" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 0}, {"n_head": -4}, {"activation_function": "nonsense"}, {"architectures": [1]},
        {"model_type": "gpt-neox"}, {"n_embd": "x"}, {"_attn_implementation": "flash_attention_2"},
    ],
)  # fmt: skip
def test_odd_configs_are_one_clear_line_or_no_matter(changes: dict, tiny_gpt2: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_gpt2 / "config.json").read_text())
    (tiny_gpt2 / "config.json").write_text(json.dumps({**config, **changes}))
    try:
        assert convert(tiny_gpt2, tmp_path / "out").verified.passed
        assert "_attn_implementation" not in (tmp_path / "out" / "config.json").read_text()
    except AlibiError as error:
        assert len(error.message.splitlines()) == 1 and not (tmp_path / "out").exists()
        assert "_attn_implementation" not in changes


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognised(name: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors").unlink()
    (tiny_gpt2 / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(AlibiError, match="git-lfs pointer"):
        convert(tiny_gpt2, tmp_path / "out")


@pytest.mark.parametrize(
    ("model_type", "reason"), [("bloom", "already"), ("mpt", "already"), ("deberta-v2", "content")]
)
def test_refused_families_say_why(model_type: str, reason: str, tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path / "source")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(AlibiError, match=reason) as error:
        convert(folder, tmp_path / "out")
    assert error.value.exit_code == 2


def test_falcon_with_its_own_kind_of_alibi_is_refused(tmp_path: Path) -> None:
    source = save_tiny("falcon", tmp_path / "source", alibi=True)
    with pytest.raises(AlibiError, match="ALiBi already"):
        convert(source, tmp_path / "out")
