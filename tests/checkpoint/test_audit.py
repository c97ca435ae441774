"""alibi verify: every change of a checkpoint is named, and a checkpoint that nobody touched passes."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alibi_cli.conversion.verify import verify
from alibi_cli.runtime import runtime_sources
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi, alibi_here, alibi_inside, alibi_json
from tests.models import save_tiny, tiny_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint of one file, `one`, and one of several, `many`."""
    folder = tmp_path_factory.mktemp("whole")
    convert(save_tiny("gpt2", folder / "source"), folder / "one", check=False)
    tiny_model("llama", torch.float32).save_pretrained(folder / "sharded", max_shard_size="60kB")
    convert(folder / "sharded", folder / "many", check=False)
    return folder


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def swap(folder: Path) -> None:
    """Two shards change names: every file is there, and every digest somewhere."""
    a, b = sorted(folder.glob("*.safetensors"))[:2]
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


def forged(folder: Path) -> None:
    """Weights are changed and alibi.json says so: the index still tells."""
    first = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(first)
    tensors["smuggled"] = torch.zeros(1)
    save_file(tensors, first)
    facts = json.loads((folder / "alibi.json").read_text())
    facts["sha256"][first.name] = hashlib.sha256(first.read_bytes()).hexdigest()
    (folder / "alibi.json").write_text(json.dumps(facts))


def custom_generate(folder: Path) -> None:
    """What transformers runs in place of its own generation."""
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("def generate(model, **options): ...")


CHANGES: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "one bit of a weight": ("one", lambda f: flip(f / "model.safetensors"), "model.safetensors", "changed"),
    "one bit of a header": ("one", lambda f: flip(f / "model.safetensors", 20), "model.safetensors", "changed"),
    "a shard is gone": ("one", lambda f: (f / "model.safetensors").unlink(), "model.safetensors", "missing"),
    "a runtime file": ("one", lambda f: (f / "alibi_attention.py").write_text("import os"), "alibi_attention.py", "changed"),
    "a runtime file is gone": ("one", lambda f: (f / "alibi_rewrite.py").unlink(), "alibi_rewrite.py", "missing"),
    "code in the plug-in's place": ("one", lambda f: (f / "alibi_plugin.py").write_text("import os"), "alibi_plugin.py", "changed"),
    "the tokenizer": ("one", lambda f: flip(f / "tokenizer.json", 5), "tokenizer.json", "changed"),
    "slopes": ("one", lambda f: edit(f / "config.json", alibi_slopes=[0.5] * 6), "config.json", "wrong"),
    "no slopes": ("one", lambda f: edit(f / "config.json", alibi_slopes=[0.0] * 6), "config.json", "wrong"),
    "other code": ("one", lambda f: edit(f / "config.json", auto_map={"AutoConfig": "evil.C"}), "config.json", "wrong"),
    "the old model type": ("one", lambda f: edit(f / "config.json", model_type="gpt2"), "config.json", "wrong"),
    "no config": ("one", lambda f: (f / "config.json").unlink(), "config.json", "missing"),
    "weights beside the shards": ("many", lambda f: save_file({}, f / "model.safetensors"), "model.safetensors", "unknown"),
    "pickled weights": ("one", lambda f: (f / "pytorch_model.bin").touch(), "pytorch_model.bin", "unknown"),
    "code beside it": ("one", lambda f: (f / "helper.py").write_text("import os"), "helper.py", "unknown"),
    "code in a folder": ("one", custom_generate, "custom_generate/generate.py", "unknown"),
    "more tokens": ("one", lambda f: (f / "added_tokens.json").write_text("{}"), "added_tokens.json", "unknown"),
    "swapped shards": ("many", swap, "SHARD", "changed"),
    "a forged digest": ("many", forged, "model.safetensors.index.json", "wrong"),
    "no index": ("many", lambda f: (f / "model.safetensors.index.json").unlink(), "model.safetensors.index.json", "missing"),
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGES)
def test_every_change_is_named(how: str, whole: Path, tmp_path: Path) -> None:
    which, change, file, status = CHANGES[how]
    shutil.copytree(whole / which, tmp_path / "copy")
    assert verify(tmp_path / "copy").passed
    change(tmp_path / "copy")
    found = verify(tmp_path / "copy")
    file = file.replace("SHARD", sorted(path.name for path in (whole / "many").glob("*.safetensors"))[0])
    assert not found.passed and {f.file: f.status for f in found.findings}[file] == status


def test_command_line(whole: Path, tmp_path: Path) -> None:
    found = alibi_json("verify", whole / "one")
    listed = {finding["file"] for finding in found["findings"]}
    assert found["passed"] and {"model.safetensors", "config.json", "tokenizer.json", *runtime_sources()} <= listed
    shutil.copytree(whole / "one", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("# a card is meant to be edited")
    assert alibi_here("verify", tmp_path / "copy").exit_code == 0
    flip(tmp_path / "copy" / "model.safetensors")
    result = alibi("verify", tmp_path / "copy", code=1)
    assert "model.safetensors" in result.stdout and "changed" in result.stdout and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "code"), [(None, 2), ("{", 1), ("{}", 1), ('{"sha256": []}', 1), ('{"sha256": {"../x": "0"}}', 1)]
)
def test_without_a_record_there_is_nothing_to_verify(
    content: str | None, code: int, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "one", tmp_path / "copy")
    (tmp_path / "copy" / "alibi.json").unlink()
    if content is not None:
        (tmp_path / "copy" / "alibi.json").write_text(content)
    result = alibi_here("verify", tmp_path / "copy")
    assert result.exit_code == code and len(result.error.message.splitlines()) == 1
    assert alibi_here("verify", tmp_path / "absent").exit_code == 2


def test_a_plug_ins_source_is_known_by_its_digest(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "one", tmp_path / "copy")
    facts = json.loads((tmp_path / "copy" / "alibi.json").read_text())
    (tmp_path / "copy" / "alibi_plugin.py").write_text("of a plug-in")
    facts["files"]["alibi_plugin.py"] = hashlib.sha256(b"of a plug-in").hexdigest()
    (tmp_path / "copy" / "alibi.json").write_text(json.dumps(facts))
    assert verify(tmp_path / "copy").passed
    (tmp_path / "copy" / "alibi_plugin.py").write_text("of somebody else")
    assert not verify(tmp_path / "copy").passed


def test_a_trained_checkpoint_passes(whole: Path, tmp_path: Path) -> None:
    arguments = ("--steps", "1", "--length", "16", "--batch-tokens", "32")
    assert alibi_here("train", whole / "one", "-o", tmp_path / "trained", *arguments).exit_code == 0
    assert verify(tmp_path / "trained").passed
    flip(tmp_path / "trained" / "model.safetensors")
    assert not verify(tmp_path / "trained").passed


def test_an_original_that_comes_with_the_package_is_no_missing_folder() -> None:
    refused = alibi_here("verify", "demo-llama")
    assert refused.exit_code == 2 and "is an original that comes with this package" in str(refused.exception)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({}, "policy replace, no attention sinks"), ({"policy": "add", "sinks": 1}, "policy add, 1 attention sink")],
)
def test_policy_and_sinks_are_named(settings: dict, says: str, tmp_path: Path) -> None:
    convert(save_tiny("llama", tmp_path / "source"), tmp_path / "out", check=False, **settings)
    found = alibi_json("verify", tmp_path / "out", run=alibi_inside)
    assert (found["policy"], found["sinks"]) == (settings.get("policy", "replace"), settings.get("sinks", 0))
    assert f"({says})" in " ".join(alibi_inside("verify", tmp_path / "out").stderr.split())
    edit(tmp_path / "out" / "alibi.json", policy_name=["?"], sinks="many")
    verdict = verify(tmp_path / "out")
    assert not verdict.passed and (verdict.policy, verdict.sinks) == ("['?']", 0)
