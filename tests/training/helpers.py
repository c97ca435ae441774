"""Small runs of `alibi train`, in this process and as commands."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from alibi_cli.training.train import train
from alibi_cli.training.train_report import TrainReport
from tests.checkpoint.helpers import convert
from tests.models import save_tiny

WORDS = (
    "the",
    "bias",
    "of",
    "a",
    "head",
    "falls",
    "with",
    "distance",
    "between",
    "query",
    "and",
    "key,",
    "slopes",
    "differ",
)


def device() -> str:
    """Where training computes: what `--device` of the tests says."""
    return torch.get_default_device().type


def text_file(folder: Path, documents: int = 40) -> Path:
    """Documents of different sizes, separated by blank lines; learnable, because words repeat."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for index in range(documents):
        picks = torch.randint(len(WORDS), (3 + 7 * (index % 5),), generator=generator).tolist()
        parts.append(" ".join(WORDS[pick] for pick in picks))
    (folder / "text.txt").write_text("\n\n".join(parts))
    return folder / "text.txt"


def tiny_converted(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A converted checkpoint of random weights whose original, beside it, is called FAMILY."""
    if not (folder / family).exists():
        settings: dict[str, Any] = dict(initializer_range=0.05, init_std=0.05, max_position_embeddings=64)
        save_tiny(family, folder / family, **{**settings, **changes})
    convert(folder / family, folder / f"{family}-alibi", check=False)
    return folder / f"{family}-alibi"


def heal(checkpoint: Path | str, output: Path, text: Path, **changes: Any) -> TrainReport:
    settings: dict[str, Any] = dict(
        steps=6, batch_tokens=128, length=32, text=(text,), split_on="blank-line", device=device()
    )
    return train(str(checkpoint), output, **{**settings, **changes})


def command(checkpoint: Path | str, output: Path, text: Path, *more: str) -> list[str]:
    """The same as a command line."""
    run = [sys.executable, "-m", "alibi_cli", "train", str(checkpoint), "-o", str(output), "--text", str(text)]
    return [*run, "--split-on", "blank-line", "--batch-tokens", "128", "--length", "32", "--device", device(), *more]


def launch(processes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of `command` under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*launcher, *arguments[1:]], capture_output=True, text=True, timeout=300, check=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
