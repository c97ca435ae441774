"""bitsandbytes: weights of 4 bits, and of 8."""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.ecosystem.checkpoints import SETTINGS, Checkpoint, Way, apart, log_probabilities, text_tokens
from tests.reference.textbook import textbook_logits


def test_nf4(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    tokens = text_tokens()
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model, steeper = (
        way.model(folder, quantization_config=config, device_map="cpu")
        for folder in (checkpoint.folder, checkpoint.steeper)
    )
    stock = AutoModelForCausalLM.from_pretrained(checkpoint.source, dtype=torch.float64)
    count = 0
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            weight, place = (
                dequantize_4bit(module.weight.data, module.weight.quant_state).double(),
                stock.get_submodule(name),
            )
            count, place.weight = count + 1, torch.nn.Parameter(weight.reshape(module.out_features, module.in_features))
            if type(place).__name__ == "Conv1D":
                place.weight = torch.nn.Parameter(place.weight.T.contiguous())
    settings = SETTINGS[checkpoint.name]
    expected = textbook_logits(
        stock, tokens, keep_positions="policy" in settings, sinks=settings.get("sinks", 0)
    ).log_softmax(-1)
    difference, control = (apart(log_probabilities(each, tokens), expected) for each in (model, steeper))
    assert count > 10 and difference < 1e-3 < control
    record(
        "bitsandbytes",
        "nf4 weights: log-probabilities, by the definition with the rounded weights",
        difference,
        control,
    )


def test_int8(checkpoint: Checkpoint, way: Way) -> None:
    """Activations are rounded too, so this is near and not the same; the original, which has no bias, is far."""
    tokens, config = text_tokens(), BitsAndBytesConfig(load_in_8bit=True)
    model = way.model(checkpoint.folder, quantization_config=config, device_map="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.source, quantization_config=config, device_map="cpu")
    expected = checkpoint.textbook(tokens)

    def kl(found: torch.Tensor) -> float:
        return (expected.exp() * (expected - found)).sum(-1).mean().item()

    assert 0 < kl(log_probabilities(model, tokens)) < kl(log_probabilities(theirs, tokens)) / 10
