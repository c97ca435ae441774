"""What alibi convert refuses, and what it never runs."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alibi_cli import AlibiError
from alibi_cli.conversion.source_check import non_finite
from alibi_cli.conversion.writer import write
from alibi_cli.files.tensor_files import read_header
from alibi_cli.models.language_model import describe
from alibi_cli.models.source import Source, open_source
from alibi_cli.progress import Progress
from tests.checkpoint.helpers import convert, plan_of, snapshot
from tests.cli.run import alibi, alibi_here, alibi_inside
from tests.models import FAMILIES, save_tiny


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    torch.save({"transformer.wte.weight": Canary(tmp_path / "fired")}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    result = alibi_inside("convert", source, "-o", tmp_path / "out", code=1)
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
    alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out")
    alibi("eval", tiny_gpt2, tmp_path / "out", "--lengths", "8,16", "--max-segments", "2")
    assert not (tmp_path / "fired").exists()
    assert "evil" not in (tmp_path / "out" / "config.json").read_text()


def test_unsupported_families_name_the_supported_and_the_closest(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox_japanese"}))
    result = alibi_inside("convert", folder, "-o", tmp_path / "out", code=2)
    assert "gpt_neox" in result.stderr.split("closest is")[1] and result.stderr.count("\n") == 1
    assert all(family in result.stderr for family in FAMILIES)


def test_a_converted_checkpoint_is_not_converted_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    convert(tiny_gpt2, tmp_path / "out")
    assert "already converted" in alibi_inside("convert", tmp_path / "out", "-o", tmp_path / "twice", code=2).stderr


def change_header(weights: Path, change: Callable[[dict], object]) -> None:
    """Applies `change` to the header of a safetensors file; the bytes of the tensors stay."""
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + raw[start:])


def change_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    content = {key: value for key, value in {**content, **changes}.items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(content))


def shard(folder: Path, weight_map: dict[str, str] | None = None, **moved: str) -> None:
    """Cuts the weights into two shards with an index, which says what it should, but for `moved`; or says `weight_map`."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / file, metadata={"format": "pt"})
    true = {name: file for file, inside in parts.items() for name in inside}
    index = {"weight_map": {**true, **moved} if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


ABSENT = object()
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
HEAD, LATER = "transformer.h.0.attn.c_attn.bias", "transformer.h.1.attn.c_attn.bias"


def sparse(weights: Path, header: int, size: int) -> None:
    with weights.open("wb") as file:
        file.write(header.to_bytes(8, "little") + b"{}")
        file.truncate(size)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def outside(folder: Path, name: str) -> None:
    """The file is moved beside the folder, and a link put in its place."""
    (folder / name).rename(folder.parent / "stolen")
    (folder / name).symlink_to(folder.parent / "stolen")


# What is wrong with a source, how it is made so, and what the message says.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size - 10), "bytes where"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "header is longer"),
    "long header": (lambda f: sparse(f / "model.safetensors", 1 << 40, 999), "header is longer"),
    "header beyond 100 MB": (lambda f: sparse(f / "model.safetensors", 100_000_001, 200_000_000), "header is longer"),
    "header is no JSON": (lambda f: change_header(f / "model.safetensors", lambda h: b"oops"), "not a table"),
    "header is not UTF-8": (lambda f: change_header(f / "model.safetensors", lambda h: b'{"\xff":1}'), "not a table"),
    "header is nested deeply": (lambda f: change_header(f / "model.safetensors", lambda h: b"[" * 99999), "not a table"),
    "half a surrogate": (lambda f: change_header(f / "model.safetensors", lambda h: {**h, "\ud800": h[HEAD]}), "not a table"),
    "duplicate keys": (
        lambda f: change_header(f / "model.safetensors", lambda h: (t := json.dumps(h))[:-1].encode() + b"," + t[1:].encode()), "twice"),
    "overlapping": (lambda f: change_header(f / "model.safetensors", lambda h: h[LATER].update(data_offsets=[0, 576])), "fit"),
    "gapped": (lambda f: change_header(f / "model.safetensors", lambda h: h.pop(HEAD) and None), "fit|its header says"),
    "negative shape": (lambda f: change_header(f / "model.safetensors", lambda h: h[HEAD].update(shape=[-1, -144])), "not a table"),
    "offsets of fractions": (
        lambda f: change_header(f / "model.safetensors", lambda h: h[HEAD].update(data_offsets=[0.0, 5.0])), "not a table"),
    "unknown dtype": (lambda f: change_header(f / "model.safetensors", lambda h: h[HEAD].update(dtype="F33")), "unknown type"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "weights are a pipe": (lambda f: fifo(f / "model.safetensors"), "no weights"),
    "weights are a device": (lambda f: link(f / "model.safetensors", "/dev/zero"), "no weights"),
    "missing shard": (lambda f: (shard(f), (f / B).unlink()), "missing"),
    "index of an absent tensor": (lambda f: shard(f, absent=A), "does not hold it"),
    "tensor in the wrong shard": (lambda f: shard(f, **{HEAD: B}), "does not hold it"),
    "tensor in both shards": (
        lambda f: (shard(f), save_file({**load_file(f / B), **load_file(f / A)}, f / B)), "in both"),
    "index with a key twice": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").write_text('{"weight_map": {}, "weight_map": {}}')), "twice"),
    "index without a map": (lambda f: shard(f, weight_map=[]), "weight_map"),
    "shard outside": (lambda f: shard(f, x="../x.safetensors"), "outside"),
    "shard at a path of its own": (lambda f: shard(f, x="/etc/passwd"), "outside"),
    "shard with odd names": (lambda f: shard(f, x="a\nb\x00c"), "missing"),
    "a link out, of weights": (lambda f: outside(f, "model.safetensors"), "leads out"),
    "a link out, of the config": (lambda f: outside(f, "config.json"), "leads out"),
    "a link out, of a side file": (lambda f: outside(f, "tokenizer.json"), "leads out"),
    "wrong shapes": (lambda f: change_config(f, n_embd=96), "config.json asks for"),
    "missing tensors": (lambda f: change_config(f, n_layer=3), "lacks"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "config is not UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), "not JSON"),
    "config with a key twice": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("{", '{"n_head": 3,', 1)), "twice"),
    "config is nested deeply": (lambda f: (f / "config.json").write_text("[" * 99999), "not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
    "config without type": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "config without heads": (lambda f: change_config(f, n_head=ABSENT), "how many attention heads"),
    "config is a pipe": (lambda f: fifo(f / "config.json"), "no config.json"),
    "config is a device": (lambda f: link(f / "config.json", "/dev/zero"), "no config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "heads do not divide": (lambda f: change_config(f, n_head=7), "heads|divisible"),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_sources_are_found_before_anything_is_written(how: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    """The plan, which writes nothing, is where they are found."""
    damage, says = DAMAGE[how]
    damage(tiny_gpt2)
    before = snapshot(tmp_path)
    with pytest.raises(AlibiError, match=says) as error:
        plan_of(tiny_gpt2, tmp_path / "out")
    assert error.value.exit_code in (1, 2) and len(error.value.message.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_nan_and_inf_are_named_before_anything_is_written(tiny_gpt2: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_gpt2 / "model.safetensors")
    tensors["transformer.wte.weight"][200, 3], tensors[HEAD][-1] = float("nan"), -float("inf")
    tensors["transformer.wpe.weight"][0, 0] = float("nan")  # stays behind
    save_file(tensors, tiny_gpt2 / "model.safetensors", metadata={"format": "pt"})
    heard: list[tuple[str, bool]] = []
    plan = plan_of(tiny_gpt2, tmp_path / "out")

    def watch(step: Progress) -> None:
        if step.note:
            heard.append((step.what, (tmp_path / "out.partial").exists()))

    report = write(plan, check=False, progress=watch)
    assert report.non_finite == [HEAD, "transformer.wte.weight"]
    assert [written for _, written in heard] == [False, False] and HEAD in heard[0][0]
    assert json.loads((tmp_path / "out" / "alibi.json").read_text())["non_finite"] == report.non_finite
    with pytest.raises(
        AlibiError, match="Every output"
    ):  # Inf in a bias of the first layer: nothing is left to compare
        convert(tiny_gpt2, tmp_path / "again")
    tensors[HEAD][-1] = 0.0
    save_file(tensors, tiny_gpt2 / "model.safetensors", metadata={"format": "pt"})
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "again", "--no-verify")
    assert "'transformer.wte.weight'" in result.stderr and "NaN or Inf" in result.stderr


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "int64"])
def test_nan_is_found_in_every_type_and_nothing_else_is(dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    values = torch.arange(-100, 101).to(kind)
    largest = torch.tensor([torch.finfo(kind).max if kind.is_floating_point else torch.iinfo(kind).max], dtype=kind)
    tensors = {"fine": torch.cat([values, largest])}
    if kind.is_floating_point:
        tensors["nan"] = torch.cat([values, torch.tensor([float("nan")]).to(kind)])
    save_file(tensors, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors").tensors
    source = Source("s", tmp_path, None, None, {}, [tmp_path / "model.safetensors"], [], [],
                    {name: (tmp_path / "model.safetensors", info) for name, info in header.items()})  # fmt: skip
    assert non_finite(source, tensors) == ["nan"] * kind.is_floating_point


def test_a_damaged_blob_of_the_hubs_cache_is_found(tiny_gpt2: Path, tmp_path: Path) -> None:
    """A snapshot links to blobs, which are named after their sha256: these links are followed, and their names are checked."""
    blobs, snapshot_folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot_folder.mkdir(parents=True)
    for path in tiny_gpt2.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blobs / digest)
        (snapshot_folder / path.name).symlink_to(f"../../blobs/{digest}")
    convert(snapshot_folder, tmp_path / "out")
    weights = (snapshot_folder / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AlibiError, match="not the file that was to be downloaded"):
        convert(snapshot_folder, tmp_path / "again")
    with pytest.raises(AlibiError, match="not the file that was to be downloaded"):
        _ = describe(str(snapshot_folder)).digest


def test_names_with_line_breaks_stay_in_their_line(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "a\nb\x1b[31m.txt").write_text("carried")
    result = alibi_here("convert", tiny_gpt2, "-o", tmp_path / "out", "--dry-run")
    assert "a\\nb\\x1b[31m.txt" in result.stdout and "\x1b" not in result.stdout
    convert(tiny_gpt2, tmp_path / "out")
    assert (tmp_path / "out" / "a\nb\x1b[31m.txt").read_text() == "carried"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "some file"])
def test_no_such_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some file").touch()
    monkeypatch.chdir(tmp_path)
    result = alibi_inside("convert", name, code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") <= 2 and "Traceback" not in result.stderr


def test_a_single_file_goes_before_an_index_that_an_earlier_save_left(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tiny_gpt2 / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    assert convert(tiny_gpt2, tmp_path / "out").verified.passed
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


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


@pytest.mark.parametrize(("model_type", "reason"), [("deberta", "content"), ("deberta-v2", "content")])
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


def test_two_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    """They are in different folders; a converted checkpoint would hold one of them under the name of both."""
    tensors = load_file(save_tiny("gpt2", tmp_path / "source") / "model.safetensors")
    (tmp_path / "source" / "model.safetensors").unlink()
    placed = {name: f"{'ab'[index % 2]}/w.safetensors" for index, name in enumerate(tensors)}
    for file in set(placed.values()):
        (tmp_path / "source" / file).parent.mkdir()
        save_file({name: tensors[name] for name in tensors if placed[name] == file}, tmp_path / "source" / file)
    index = tmp_path / "source" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    with pytest.raises(AlibiError, match="two files of one name"):
        open_source(str(tmp_path / "source"))
    (tmp_path / "source" / "b" / "w.safetensors").rename(tmp_path / "source" / "b" / "v.safetensors")
    index.write_text(index.read_text().replace("b/w", "b/v"))
    assert set(open_source(str(tmp_path / "source")).tensors) == set(tensors)
