"""torchao: weights of 8 bits."""

from typing import Any

import torch
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig

from tests.ecosystem.checkpoints import SETTINGS, Checkpoint, Way, apart, log_probabilities, text_tokens
from tests.reference.textbook import textbook_logits


def rounded(model: Any) -> dict[str, torch.Tensor]:
    """What the quantised weights stand for."""
    return {
        name: p.data.dequantize()
        for name, p in model.named_parameters()
        if hasattr(p.data, "dequantize") and type(p.data) is not torch.Tensor
    }


def test_int8_weights(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    tokens, config = text_tokens(), TorchAoConfig(Int8WeightOnlyConfig())
    model, steeper = (
        way.model(folder, quantization_config=config) for folder in (checkpoint.folder, checkpoint.steeper)
    )
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.source, quantization_config=config)
    weights = rounded(model)
    assert weights.keys() == rounded(theirs).keys()
    assert (checkpoint.name == "demo-llama") == bool(weights)  # GPT-2's Conv1D is not quantised in the original either
    if not weights:
        return
    stock = AutoModelForCausalLM.from_pretrained(checkpoint.source, dtype=torch.float64)
    for name, weight in weights.items():
        stock.get_submodule(name.rpartition(".")[0]).weight = torch.nn.Parameter(weight.double())
    settings = SETTINGS[checkpoint.name]
    expected = textbook_logits(
        stock, tokens, keep_positions="policy" in settings, sinks=settings.get("sinks", 0)
    ).log_softmax(-1)
    difference, control = (apart(log_probabilities(each, tokens), expected) for each in (model, steeper))
    assert difference < 1e-3 < control
    record(
        "torchao", "int8 weights: log-probabilities, by the definition with the rounded weights", difference, control
    )
