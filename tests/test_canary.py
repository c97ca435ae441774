"""No code of a checkpoint or data set runs unasked, and local paths make no connection: in every command."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

from alibi_cli.cli.app import app
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_here
from tests.conftest import REPOSITORY
from tests.python import python

EVAL = ("--lengths", "8,16", "--max-segments", "2")
CALIBRATED = ("--slopes", "calibrated", "--calibrate", "look-back", "--calibration-tokens", "200")
# Every command that is given a checkpoint; {m} is the checkpoint, {o} a folder to be made.
COMMANDS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", "{m}", "-o", "{o}"),
    "plan": ("convert", "{m}", "-o", "{o}", "--dry-run"),
    "calibrate": ("convert", "{m}", "-o", "{o}", *CALIBRATED),
    "eval": ("eval", "{m}", *EVAL),
    "task": ("task", "listops", "{m}", "--lengths", "200", "--samples", "1"),
    "train": ("train", "{m}", "-o", "{o}", "--steps", "1", "--length", "16", "--batch-tokens", "32"),
    "export": ("export", "{m}", "-o", "{o}.gguf"),
    "slopes": ("inspect", "slopes", "{m}"),
    "inspect plan": ("inspect", "plan", "{m}"),
    "heads": ("inspect", "heads", "{m}"),
    "verify": ("verify", "{m}"),
    "report": ("report", "{m}", "-o", "{o}.html"),
}


def test_every_command_that_takes_a_checkpoint_is_in_the_list() -> None:
    """A new command is to be added above."""
    commands = typer.main.get_command(app).commands
    names = set(commands) - {"inspect"} | {f"inspect {name}" for name in commands["inspect"].commands}
    without = {"bench", "env", "inspect bias", "inspect policies", "inspect presets"}
    covered = {
        arguments[0] if arguments[0] != "inspect" else " ".join(arguments[:2]) for arguments in COMMANDS.values()
    }
    assert names - without <= covered


def code(fired: Path, *classes: str) -> str:
    lines = [f"import pathlib; pathlib.Path({str(fired)!r}).touch()", *(f"class {name}: pass" for name in classes)]
    return "\n".join([*lines, "def generate(model, *a, **k): pass"]) + "\n"


class Pickled:
    def __init__(self, fired: Path):
        self.fired = fired

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.fired}",))


def beside(folder: Path, fired: Path) -> None:
    """Code in every place in which transformers looks for some, in a family that needs none."""
    for name in (
        "evil.py",
        "modeling_gpt2.py",
        "tokenization_evil.py",
        "sitecustomize.py",
        "torch.py",
        "alibi_plugin.py",
    ):
        (folder / name).write_text(code(fired, "C", "EvilTokenizer"))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code(fired))
    auto_map = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    edit(
        folder / "config.json",
        auto_map=auto_map,
        custom_pipelines={"text-generation": {"impl": "evil.C", "pt": ["evil.C"]}},
    )
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]})


def pickled(folder: Path, fired: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Pickled(fired)}, folder / "pytorch_model.bin")


def pickled_beside(folder: Path, fired: Path) -> None:
    """Good pickled weights, and other pickles that are of no use."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save(Pickled(fired), folder / name)


def unknown(folder: Path, fired: Path) -> None:
    (folder / "evil.py").write_text(code(fired, "C"))
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})


def tokenizer(folder: Path, fired: Path) -> None:
    (folder / "evil.py").write_text(code(fired, "EvilTokenizer"))
    auto_map = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
    edit(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=auto_map)


def kernel(folder: Path, fired: Path) -> None:
    """Attention from the Hub, which is code."""
    edit(folder / "config.json", _attn_implementation="evil/kernel", attn_implementation="evil/kernel")


def converted(folder: Path, fired: Path) -> None:
    """A converted checkpoint whose own code is not ours."""
    convert(folder, folder.with_name("converted"), check=False)
    shutil.rmtree(folder)
    folder.with_name("converted").rename(folder)
    for name in ("modeling_alibi.py", "alibi_attention.py", "alibi_plugin.py"):
        (folder / name).write_text(code(fired, "AlibiGPT2Config", "AlibiGPT2LMHeadModel") + (folder / name).read_text())


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CANARIES: dict[str, Callable[[Path, Path], None]] = {
    f.__name__: f for f in (beside, pickled, pickled_beside, unknown, tokenizer, kernel, converted)
}
WORKS = {
    "beside": set(COMMANDS) - {"verify", "export"},
    "pickled_beside": {"convert", "eval", "train"},
    "converted": {"eval", "train"},
}


@pytest.mark.parametrize("canary", CANARIES)
def test_no_canary_sings(canary: str, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = tmp_path / "fired"
    CANARIES[canary](tiny_gpt2, fired)
    monkeypatch.chdir(tiny_gpt2)
    for name, arguments in COMMANDS.items():
        filled = [argument.format(m=tiny_gpt2, o=tmp_path / f"out {name}") for argument in arguments]
        result = alibi_here(*filled)
        assert not fired.exists(), name
        message = getattr(result, "error", None)
        assert result.exit_code == 0 or (result.exit_code in (1, 2) and name not in WORKS.get(canary, ())), (
            name,
            message,
        )
        assert message is None or len(message.message.splitlines()) == 1


@pytest.mark.parametrize("what", ["a script", "a folder with a script", "a pickle"])
def test_a_dataset_runs_no_code(what: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    folder, fired = tmp_path / "data", tmp_path / "fired"
    folder.mkdir()
    (folder / "data.py").write_text(code(fired))
    if what == "a pickle":
        torch.save(Pickled(fired), folder / "test.pt")
        (folder / "data.py").unlink()
    name = folder / "data.py" if what == "a script" else folder
    for arguments in (
        ("eval", tiny_gpt2, *EVAL, "--dataset", name),
        ("train", tiny_gpt2, "-o", tmp_path / "out", "--steps", "1", "--length", "16", "--dataset", name),
    ):
        result = alibi_here(*arguments)
        assert result.exit_code in (1, 2) and not fired.exists()


def test_the_canaries_can_sing(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The control: the same code, run on purpose."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fired = tmp_path / "fired"
    torch.save(Pickled(fired), tmp_path / "p")
    torch.load(tmp_path / "p", weights_only=False)
    assert fired.exists()
    fired.unlink()
    (tiny_gpt2 / "custom_generate").mkdir()
    (tiny_gpt2 / "custom_generate" / "generate.py").write_text(code(fired))
    AutoModelForCausalLM.from_pretrained(tiny_gpt2, trust_remote_code=True)
    assert fired.exists()
    fired.unlink()
    unknown(tiny_gpt2, fired)
    with pytest.raises(Exception):  # noqa: B017 - whatever comes of an empty class
        AutoConfig.from_pretrained(tiny_gpt2, trust_remote_code=True)
    assert fired.exists()


NO_NETWORK = """
import json, socket, sys
made = []
def refuse(*arguments, **options):
    made.append(str(arguments)[:200])
    raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from typer.testing import CliRunner
from alibi_cli.cli.app import app
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    if result.exit_code or made:
        sys.exit(f"{arguments}: {result.exit_code} {result.exception} {made}")
"""


def test_local_paths_make_no_connection(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Every connection is refused and noted, rather than trusting HF_HUB_OFFLINE."""
    out = str(tmp_path / "out")
    commands = [
        [argument.format(m=tiny_gpt2, o=out if name == "convert" else f"{out} {name}") for argument in arguments]
        for name, arguments in COMMANDS.items()
    ]
    for arguments in commands:
        if arguments[0] in ("verify", "export"):  # of converted checkpoints
            arguments[1] = out
    commands += [["eval", out, *EVAL], ["train", out, "-o", f"{out} again", "--steps", "1", "--length", "16"]]
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    result = python("-c", NO_NETWORK, json.dumps(commands), cwd=REPOSITORY, env=env)
    assert result.returncode == 0, result.stderr


def test_offline_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE is set for these tests: a name that is not in the cache is one message, and no connection."""
    import socket

    made = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: made.append(arguments))
    for name, arguments in COMMANDS.items():
        if name not in ("verify", "report"):  # which take files and folders only
            result = alibi_here(*(argument.format(m="someone/absent", o=tmp_path / "out") for argument in arguments))
            assert result.exit_code == 1 and "the Hub cannot be reached" in result.error.message
    assert made == [] and list(tmp_path.iterdir()) == []
