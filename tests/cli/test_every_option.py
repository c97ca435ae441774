"""Every option of every command does something: beside a cheap command line it changes what comes out, or it is refused.

What comes out: the exit code, stdout without times, the files, and what models were fed: the shapes and types of all that goes into
modules with weights.
"""

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch.nn.modules.module import register_module_forward_pre_hook

from alibi_cli.calibration import added, divergence, feed
from alibi_cli.calibration import calibrate as calibration
from alibi_cli.cli import options
from alibi_cli.cli.app import app
from alibi_cli.runtime import alibi_plugin
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_inside
from tests.models import save_tiny
from tests.reporting.helpers import BASE, flat, results_of

CALIBRATED = "convert llama -o out --no-verify --json --slopes calibrated --calibration-text long.txt"
ADDED = f"{CALIBRATED} --policy add"
PLANNED = "inspect plan llama -o out --json --slopes calibrated"
PLANNED_ADDED = f"{PLANNED} --policy add"
EVAL = "eval llama --text documents --lengths 12,24,48 --targets 4 --max-segments 2"
SLIDING = "eval llama --text documents --lengths 12 --protocol sliding --stride 6"
ROWS = "eval llama --dataset rows.jsonl --lengths 12 --targets 4"
TASK = "task listops llama-alibi --lengths 128 --samples 1"
TRAIN = "train llama-alibi -o out --steps 2 --text long.txt --length 16 --batch-tokens 64"
BUDGET = "train llama-alibi -o out --text long.txt --length 16 --batch-tokens 64"
TAUGHT = f"{TRAIN} --teacher llama"
HEADS = "inspect heads llama --text long.txt --tokens 96 --length 24"
BENCH = "bench attention --lengths 16 --repeats 1 --backends sdpa"
FOREIGN = "eval foreign --text documents --lengths 12 --targets 4"

# {command: {option: (base, what is added to it)}}; an argument that the base has already is replaced.
OPTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "convert": {
        "model": ("convert llama -o out --no-verify", "@gpt2"),
        "output": ("convert llama -o out --no-verify", "-o other"),
        "policy": ("convert llama -o out --no-verify", "--policy add"),
        "sinks": ("convert llama -o out --no-verify", "--sinks 1"),
        "offset": ("convert llama -o out --no-verify --policy add", "--offset 4"),
        "slopes": ("convert llama -o out --no-verify", "--slopes slopes.json"),
        "max_bias": ("convert llama -o out --no-verify", "--max-bias 4"),
        "max_sequence_length": ("convert llama -o out --no-verify", "--max-sequence-length 99"),
        "revision": ("convert llama -o out --no-verify", "--revision main"),
        "plugin": ("convert llama -o out --no-verify", "--plugin loaded.py"),
        "force": ("convert llama -o occupied --no-verify", "--force"),
        "link": ("convert llama -o out --no-verify --policy add", "--link"),
        "verify": ("convert llama -o out", "--no-verify"),
        "dry_run": ("convert llama -o out --no-verify", "--dry-run"),
        "json": ("convert llama -o out --no-verify", "--json"),
        "preset": ("convert llama -o out --no-verify", "--preset long-context"),
        "calibrate": (ADDED, "--calibrate distil"),
        "calibration_tokens": (ADDED, "--calibration-tokens 300"),
        "calibration_length": (ADDED, "--calibration-length 60"),
        "calibration_text": (ADDED, "--calibration-text more.txt"),
        "horizon": (ADDED, "--horizon 12"),
        "grid": (CALIBRATED.replace("llama", "gpt2") + " --calibrate look-back", "--grid press"),
    },
    "inspect plan": {
        "model": ("inspect plan llama", "@gpt2"),
        "output": ("inspect plan llama", "-o other"),
        "policy": ("inspect plan llama", "--policy add"),
        "sinks": ("inspect plan llama", "--sinks 1"),
        "offset": ("inspect plan llama --policy add --json", "--offset 4"),
        "slopes": ("inspect plan llama", "--slopes slopes.json"),
        "max_bias": ("inspect plan llama", "--max-bias 4"),
        "max_sequence_length": ("inspect plan llama", "--max-sequence-length 99"),
        "revision": ("inspect plan llama", "--revision main"),
        "plugin": ("inspect plan llama", "--plugin loaded.py"),
        "json": ("inspect plan llama", "--json"),
        "preset": ("inspect plan llama", "--preset long-context"),
        "calibrate": (PLANNED_ADDED, "--calibrate distil"),
        "calibration_tokens": (PLANNED_ADDED, "--calibration-tokens 300"),
        "calibration_length": (PLANNED_ADDED, "--calibration-length 60"),
        "calibration_text": (PLANNED_ADDED, "--calibration-text long.txt"),
        "horizon": (PLANNED_ADDED, "--horizon 12"),
        "grid": (PLANNED.replace("llama", "gpt2"), "--grid press"),
    },
    "eval": {
        "models": (EVAL, "@llama-alibi"),
        "output": (EVAL, "--output r.json"),
        "lengths": (EVAL, "--lengths 12"),
        "batch_size": (EVAL, "--batch-size 1"),
        "device": (EVAL, "--device nonsense"),
        "dtype": (EVAL, "--dtype bfloat16"),
        "revision": (EVAL, "--revision main"),
        "tokenizer": (EVAL, "--tokenizer other"),
        "report_to": (EVAL, "--report-to tensorboard"),
        "plugin": (EVAL, "--plugin loaded.py"),
        "trust_remote_code": (FOREIGN, "--trust-remote-code"),
        "baseline": (EVAL, "--baseline llama-alibi"),
        "arms": (EVAL, "--arms window"),
        "protocol": ("eval llama --text documents --lengths 12", "--protocol non-overlapping"),
        "targets": ("eval llama --text documents --lengths 12", "--targets 4"),
        "stride": (SLIDING, "--stride 4"),
        "text": (EVAL, "--text long.txt"),
        "split_on": (EVAL, "--split-on blank-line"),
        "dataset": ("eval llama --lengths 12 --max-documents 1 --max-segments 1", "--dataset rows.jsonl"),
        "text_column": (ROWS, "--text-column body"),
        "max_documents": (EVAL, "--max-documents 1"),
        "max_segments": (EVAL, "--max-segments 5"),
        "resume": (f"{EVAL} --output earlier.json", "--resume"),
        "plot": (EVAL, "--plot p.svg"),
        "task": (EVAL, "--task passkey"),
        "dry_run": (EVAL, "--dry-run"),
        "form": (EVAL, "--format csv"),
        "json": (EVAL, "--json"),
        "preset": ("eval llama --text documents --lengths 12", "--preset press-table"),
    },
    "task": {
        "task": (TASK, "=passkey"),
        "models": (TASK, "@llama"),
        "output": (TASK, "--output t.json"),
        "lengths": (TASK, "--lengths 160"),
        "batch_size": (TASK.replace("samples 1", "samples 8"), "--batch-size 1"),
        "device": (TASK, "--device nonsense"),
        "dtype": (TASK, "--dtype bfloat16"),
        "revision": (TASK, "--revision main"),
        "tokenizer": (TASK, "--tokenizer other"),
        "report_to": (TASK, "--report-to tensorboard"),
        "plugin": (TASK, "--plugin loaded.py"),
        "trust_remote_code": ("task listops foreign --lengths 128 --samples 1", "--trust-remote-code"),
        "samples": (TASK, "--samples 2"),
        "seed": (TASK, "--seed 7"),
        "attention": (f"{TASK} --json", "--attention sdpa"),
        "verbose": (TASK, "--verbose"),
        "form": (TASK, "--format csv"),
        "json": (TASK, "--json"),
    },
    "report": {
        "results": ("report results.json", "others.json"),
        "output": ("report results.json", "-o r.html"),
        "card": ("report results.json", "--card llama-alibi"),
        "baseline": ("report results.json", "--baseline a"),
        "form": ("report results.json", "--format latex"),
        "json": ("report results.json", "--json"),
    },
    "verify": {"folder": ("verify llama-alibi", "@llama"), "json": ("verify llama-alibi", "--json")},
    "train": {
        "checkpoint": (TRAIN, "@llama"),
        "output": (TRAIN, "-o other"),
        "tokens": (f"{BUDGET} --tokens 64", "--tokens 128"),
        "steps": (TRAIN, "--steps 1"),
        "text": (TRAIN, "--text more.txt"),
        "split_on": (TRAIN, "--split-on blank-line"),
        "dataset": (TRAIN, "--dataset rows.jsonl"),
        "text_column": (TRAIN.replace("--text long.txt", "--dataset rows.jsonl"), "--text-column body"),
        "batch_tokens": (TRAIN, "--batch-tokens 32"),
        "length": (TRAIN, "--length 8"),
        "length_schedule": (TRAIN.replace("--length 16", ""), "--length-schedule 8:0.5,16:0.5"),
        "train_sequence_length_scaling": (TRAIN, "--train-sequence-length-scaling 0.5"),
        "seed": (TRAIN, "--seed 7"),
        "teacher": (TRAIN, "--teacher llama"),
        "kd_weight": (TAUGHT, "--kd-weight 0.5"),
        "temperature": (TAUGHT, "--temperature 2"),
        "hidden_weight": (TAUGHT, "--hidden-weight 1"),
        "train_slopes": (TRAIN, "--train-slopes"),
        "learning_rate": (TRAIN, "--learning-rate 1e-4"),
        "warmup": (TRAIN, "--warmup 1"),
        "decay": (TRAIN.replace("--steps 2", "--steps 3"), "--decay constant"),
        "weight_decay": (TRAIN, "--weight-decay 0.5"),
        "max_gradient_norm": (TRAIN, "--max-gradient-norm 1e-9"),
        "dtype": (TRAIN, "--dtype bfloat16"),
        "batch_size": (TRAIN, "--batch-size 1"),
        "gradient_checkpointing": (TRAIN, "--gradient-checkpointing"),
        "fsdp": (TRAIN, "--fsdp full_shard"),
        "deepspeed": (TRAIN, "--deepspeed slopes.json"),
        "report_to": (TRAIN, "--report-to tensorboard"),
        "force": (TRAIN.replace("-o out", "-o healed"), "--force"),
        "revision": (TRAIN, "--revision main"),
        "plugin": (TRAIN, "--plugin loaded.py"),
        "trust_remote_code": (TRAIN.replace("llama-alibi", "foreign"), "--trust-remote-code"),
        "json": (TRAIN, "--json"),
        "preset": (TRAIN, "--preset heal.yaml"),
    },
    "export": {
        "folder": ("export gpt2-alibi -o out.gguf --no-verify", "@gpt2"),
        "output": ("export gpt2-alibi -o out.gguf --no-verify", "-o other.gguf"),
        "to": ("export gpt2-alibi -o out.gguf --no-verify", "--to onnx"),
        "dtype": ("export gpt2-alibi -o out.gguf --no-verify", "--dtype f16"),
        "approximate": ("export exact-alibi -o out.gguf --no-verify", "--approximate"),
        "force": ("export gpt2-alibi -o there.gguf --no-verify", "--force"),
        "verify": ("export gpt2-alibi -o out.gguf", "--no-verify"),
        "json": ("export gpt2-alibi -o out.gguf --no-verify", "--json"),
    },
    "env": {"json": ("env", "--json")},
    "inspect slopes": {
        "model": ("inspect slopes", "llama"),
        "heads": ("inspect slopes", "--heads 3"),
        "max_bias": ("inspect slopes", "--max-bias 4"),
        "json": ("inspect slopes", "--json"),
    },
    "inspect bias": {
        "heads": ("inspect bias --length 8", "--heads 2"),
        "length": ("inspect bias --length 8", "--length 9"),
        "causal": ("inspect bias --length 8", "--symmetric"),
        "plot": ("inspect bias --length 8", "--plot p.png"),
    },
    "inspect heads": {
        "model": (HEADS, "@gpt2"),
        "text": (HEADS, "--text more.txt"),
        "tokens": (HEADS, "--tokens 48"),
        "length": (HEADS, "--length 12"),
        "sinks": (HEADS, "--sinks 1"),
        "revision": (HEADS, "--revision main"),
        "plugin": (HEADS, "--plugin loaded.py"),
        "plot": (HEADS, "--plot p.png"),
        "json": (HEADS, "--json"),
    },
    "inspect policies": {
        "plugin": ("inspect policies", "--plugin loaded.py"),
        "json": ("inspect policies", "--json"),
    },
    "inspect presets": {"name": ("inspect presets", "keep"), "json": ("inspect presets", "--json")},
    "bench attention": {
        "lengths": (BENCH, "--lengths 8"),
        "heads": (BENCH, "--heads 2"),
        "head_dim": (BENCH, "--head-dim 8"),
        "batch": (BENCH, "--batch 2"),
        "repeats": (BENCH, "--repeats 2"),
        "backends": (BENCH, "--backends folded"),
        "device": (BENCH, "--device nonsense"),
        "dtype": (BENCH, "--dtype bfloat16"),
        "plot": (BENCH, "--plot p.png"),
        "json": (BENCH, "--json"),
    },
}
# Options whose effect is seen elsewhere.
ELSEWHERE = {
    ("train", "resume"): "a run is continued where it was begun: tests/training/test_resume.py",
    ("train", "device"): "auto is the CPU on a machine without a GPU: tests/test_gpu.py",
    ("train", "save_every"): "what is kept is removed at the end: tests/training/test_resume.py",
}


def commands() -> dict[str, list[str]]:
    """{command: the names of its options and arguments}"""

    def walk(command: Any, words: str) -> Iterator[tuple[str, list[str]]]:
        if not hasattr(command, "list_commands"):
            yield words, [parameter.name for parameter in command.params]
            return
        for name in command.list_commands(None):
            yield from walk(command.commands[name], f"{words} {name}".strip())

    return dict(walk(typer.main.get_command(app), ""))


def test_every_option_is_listed_here() -> None:
    assert set(OPTIONS) == set(commands())
    for command, names in commands().items():
        elsewhere = {option for known, option in ELSEWHERE if known == command}
        assert sorted({*OPTIONS[command], *elsewhere}) == sorted(names), command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command lines name."""
    folder = tmp_path_factory.mktemp("made")
    words = "the bias of a head falls with the distance between query and key "
    (folder / "long.txt").write_text(f"{words * 40}\n\n{words[7:] * 40}")
    (folder / "more.txt").write_text("slopes differ by layer, and sinks have none; " * 90)
    (folder / "documents").mkdir()
    for n in range(3):
        (folder / "documents" / f"{n}.txt").write_text(f"{n}: {words * 4}\n\n{words * (n + 1)}")
    rows = [{"text": f"row {n} {words * 20}", "body": f"another {n} {words[9:] * 20}"} for n in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "slopes.json").write_text(json.dumps([0.5, 0.4, 0.3, 0.2, 0.1, 0.05]))
    (folder / "loaded.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    preset = "command: train\ndescription: own\nsettings: {learning_rate: 1.0e-2}\n"
    (folder / "heal.yaml").write_text(preset)
    for family in ("llama", "gpt2"):
        save_tiny(family, folder / family)
        convert(folder / family, folder / f"{family}-alibi", check=False)
    convert(save_tiny("gpt2", folder / "exact", activation_function="gelu"), folder / "exact-alibi", check=False)
    _foreign(folder / "gpt2", folder / "foreign")
    shutil.copytree(folder / "gpt2", folder / "other")
    tokenizer = json.loads((folder / "other" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "  "}
    (folder / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    results_of({"base": BASE, "a": flat(9)}, "base").save(folder / "results.json")
    results_of({"base": BASE, "b": flat(8)}, "base").save(folder / "others.json")
    with pytest.MonkeyPatch.context() as inside:
        inside.chdir(folder)
        inside.setattr(options, "command_line", lambda: "alibi")
        alibi_inside(*f"{TRAIN} --force".replace("-o out", "-o healed").split())
        alibi_inside(*f"{EVAL} --output earlier.json".split())
    return folder


def _foreign(source: Path, folder: Path) -> None:
    """A model that brings its own code."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnLMHeadModel"}
    config |= {"model_type": "own", "architectures": ["OwnLMHeadModel"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
        "class OwnLMHeadModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )


@dataclass(frozen=True)
class Outcome:
    code: int
    printed: str
    files: dict[str, str]
    fed: Counter[str]


@pytest.fixture(scope="module")
def outcomes(made: Path) -> dict[str, Outcome]:
    return {}


@pytest.fixture
def run(made: Path, outcomes: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What comes out of a command line; each is run once, in a folder of its own beside what is named."""
    monkeypatch.setitem(feed.TOKENS, "reach", 200)
    monkeypatch.setitem(feed.TOKENS, "look-back", 200)
    monkeypatch.setattr(feed, "ADDED_TOKENS", 200)
    monkeypatch.setattr(calibration, "HELD_OUT_TOKENS", 100)
    for module in (added, divergence):
        monkeypatch.setattr(module, "TOKENS_PER_BATCH", 256)
    monkeypatch.setattr(alibi_plugin, "MODULES", list(alibi_plugin.MODULES))

    def run(line: str, again: bool = False) -> Outcome:
        if line not in outcomes or again:
            outcomes[line] = _run(line, made, tmp_path / f"{len(outcomes)}{again}")
        return outcomes[line]

    return run


def _run(line: str, made: Path, folder: Path) -> Outcome:
    folder.mkdir()
    for path in made.iterdir():
        if path.name in ("healed", "llama-alibi"):  # which some commands change
            shutil.copytree(path, folder / path.name)
        else:
            (folder / path.name).symlink_to(path)
    (folder / "occupied").mkdir()
    (folder / "occupied" / "alibi.json").write_text("{}")
    (folder / "there.gguf").touch()
    before = _files(folder)
    fed: Counter[str] = Counter()

    def count(module: Any, inputs: Any) -> None:
        if getattr(module, "weight", None) is not None and inputs:
            fed[f"{tuple(inputs[0].shape)} {inputs[0].dtype}"] += 1

    with pytest.MonkeyPatch.context() as inside:
        inside.chdir(folder)
        inside.setattr(options, "command_line", lambda: "alibi")  # which is in every record
        inside.delitem(sys.modules, "loaded", raising=False)  # a plug-in is run once in a process
        hook = register_module_forward_pre_hook(count)
        try:
            result = alibi_inside(*shlex.split(line), code=None)
        finally:
            hook.remove()
    files = {name: digest for name, digest in _files(folder).items() if before.get(name) != digest}
    return Outcome(result.returncode, _timeless(result.stdout) if result.returncode == 0 else result.stderr, files, fed)


def _timeless(text: str) -> str:
    """Without what differs from run to run, and the digest of a request, in which the path of the output is."""
    return re.sub(
        r'\d+(\.\d+)? ?(s\b|tokens/s)|"\w*(second|free_bytes|peak_bytes)\w*": [\d.e+-]+|"request": "\w+"', "", text
    )


def _files(folder: Path) -> dict[str, str]:
    """Of the folder itself, not of what is linked there. A link counts as another kind of file."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not any(each.is_symlink() for each in (path, *path.parents) if folder in each.parents):
            kind = "linked " if path.stat().st_nlink > 1 else ""
            content = path.read_bytes()
            if path.suffix == ".json":
                content = _timeless(content.decode()).encode()
            found[path.relative_to(folder).as_posix()] = kind + hashlib.sha256(content).hexdigest()
    return found


def with_option(base: str, added: str) -> str:
    """@X and =X replace the first argument after the command, or the last one before the options."""
    words, value = base.split(), added[1:]
    first = next(i for i, word in enumerate([*words, "-"]) if word.startswith("-"))
    if added[0] == "@":
        return " ".join([*words[: first - 1], value, *words[first:]])
    if added[0] == "=":
        return " ".join([words[0], value, *words[2:]])
    if not added.startswith("-"):
        return f"{base} {added}"
    option = added.split(maxsplit=1)[0]
    if option in words:
        at = words.index(option)
        return " ".join([*words[:at], *added.split(), *words[at + 2 :]])
    return f"{base} {added}"


@pytest.mark.parametrize(
    "line", [OPTIONS["convert"]["verify"][0], ADDED, f"{EVAL} --output r.json", TASK, f"{TRAIN} --json", HEADS]
)
def test_the_same_command_line_gives_the_same(line: str, run: Any) -> None:
    """Otherwise any option would seem to change something."""
    assert run(line) == run(line, again=True)


CASES = [(command, option) for command, options in OPTIONS.items() for option in options]


@pytest.mark.parametrize(("command", "option"), CASES, ids=[f"{c} {o}" for c, o in CASES])
def test_an_option_changes_what_comes_out_or_is_refused(command: str, option: str, run: Any) -> None:
    base, added = OPTIONS[command][option]
    assert base.startswith(command) and torch.is_grad_enabled()
    before, after = run(base), run(with_option(base, added))
    assert after != before
    assert after.code in (0, 2), after.printed
