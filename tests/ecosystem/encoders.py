"""A tiny BERT with a byte tokenizer that has a mask, converted, and what it should compute."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from alibi_cli.settings.presets import presets_folder
from tests.checkpoint.helpers import convert
from tests.models import tiny_model
from tests.reference.textbook import textbook_logits, textbook_slopes

PAD, MASK, WORDS = 256, 257, 258


def encoder(folder: Path, **settings: object) -> tuple[Path, Path, Path]:
    """The original, its conversion, and one with slopes 1.1 times as steep."""
    source = folder / "source"
    tiny_model("bert", torch.float32, vocab_size=WORDS, pad_token_id=PAD).save_pretrained(source)
    stock = AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=stock.backend_tokenizer, pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD)
    tokenizer.save_pretrained(source)
    (folder / "slopes.json").write_text(json.dumps([1.1 * slope for slope in textbook_slopes(6)]))
    convert(source, folder / "converted", check=False)
    convert(source, folder / "steeper", check=False, slopes=str(folder / "slopes.json"))
    return source, folder / "converted", folder / "steeper"


def textbook(source: Path, tokens: torch.Tensor, headless: bool = False) -> torch.Tensor:
    """Logits (B, T, words), or the last hidden states, in float64."""
    stock = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float64)
    if headless:
        stock.cls = torch.nn.Identity()
    return textbook_logits(stock, tokens)
