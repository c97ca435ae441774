"""Converted demonstration models, what they should compute by the textbook, and both ways to load them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alibi_cli.settings.presets import presets_folder
from tests.checkpoint.helpers import convert
from tests.reference.textbook import textbook_logits, textbook_slopes

HEADS = 8
# One that replaces learned position embeddings, one that keeps a rotation and has sinks.
SETTINGS: dict[str, dict[str, Any]] = {"demo-gpt2": {}, "demo-llama": {"policy": "add", "sinks": 4}}
TEXT = "def attention(query, key, value):\n    return softmax(query @ key.T) @ value\n"

PROMPT, COUNT = TEXT[30:], 24  # so many tokens on, slopes 1.1 times as steep have changed what is decoded


@dataclass(frozen=True)
class Checkpoint:
    """`steeper` is the negative control: converted with slopes 1.1 times as steep."""

    name: str
    source: Path
    folder: Path
    steeper: Path

    def textbook(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, T, vocabulary) in float64, from the unconverted model and the definition."""
        settings = SETTINGS[self.name]
        stock = AutoModelForCausalLM.from_pretrained(self.source, dtype=torch.float64)
        positions = settings.get("policy") == "add"
        logits = textbook_logits(stock, tokens, keep_positions=positions, sinks=settings.get("sinks", 0))
        return logits.log_softmax(-1)


@dataclass(frozen=True)
class Way:
    """How a converted checkpoint becomes a model: by the code that it carries, or by this package."""

    trusts: bool
    module: str

    @property
    def options(self) -> dict[str, bool]:
        return {"trust_remote_code": True} if self.trusts else {}

    def model(self, folder: Path, auto: Any = AutoModelForCausalLM, **options: Any) -> Any:
        found = auto.from_pretrained(folder, **self.options, **options).eval()
        return self.checked(found)

    def checked(self, model: Any) -> Any:
        """`model`, which was loaded in this way and no other."""
        assert type(model).__module__.startswith(self.module), type(model)
        return model

    def tokenizer(self, folder: Path) -> Any:
        return AutoTokenizer.from_pretrained(folder, **self.options)


def make(name: str, folder: Path) -> Checkpoint:
    source = presets_folder() / name
    steep = folder / "slopes.json"
    steep.write_text(json.dumps([1.1 * slope for slope in textbook_slopes(HEADS)]))
    convert(source, folder / "converted", check=False, **SETTINGS[name])
    convert(source, folder / "steeper", check=False, slopes=str(steep), **SETTINGS[name])
    return Checkpoint(name, source, folder / "converted", folder / "steeper")


def ids_of(text: str) -> list[int]:
    """As the demonstration models' tokenizer has them: a number for each byte, in the order of GPT-2's alphabet."""
    return AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")(text).input_ids


def text_tokens(count: int = 48, batch: int = 1) -> torch.Tensor:
    """(batch, count) tokens of text, each row another part of it."""
    ids = ids_of(TEXT * 8)
    return torch.tensor([ids[7 * row : 7 * row + count] for row in range(batch)])


@torch.no_grad()
def log_probabilities(model: Any, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return model(input_ids=tokens, **inputs).logits.double().log_softmax(-1)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return (one.double() - other.double()).abs().max().item()
