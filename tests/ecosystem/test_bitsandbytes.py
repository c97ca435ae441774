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


def test_int8_rounds_no_more_than_in_the_original(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    tokens, config = text_tokens(), BitsAndBytesConfig(load_in_8bit=True)
    model = way.model(checkpoint.folder, quantization_config=config, device_map="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.source, quantization_config=config, device_map="cpu")
    exact = AutoModelForCausalLM.from_pretrained(checkpoint.source)

    def mean(one: torch.Tensor, other: torch.Tensor) -> float:
        return (one.exp() * (one - other)).sum(-1).mean().item()

    difference = mean(checkpoint.textbook(tokens), log_probabilities(model, tokens))
    original = mean(log_probabilities(exact, tokens), log_probabilities(theirs, tokens))
    assert 0 < difference < 3 * original
