"""Export to ONNX by torch, run by onnxruntime."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from tests.ecosystem.checkpoints import Checkpoint, Way, apart, log_probabilities, text_tokens


class Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def test_onnxruntime(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    if not way.trusts:
        pytest.skip("the same functions, and an export takes long")
    model, file = Logits(way.model(checkpoint.folder)), tmp_path / "model.onnx"
    sizes = {"input_ids": {1: torch.export.Dim("length", min=2, max=512)}}
    torch.onnx.export(
        model,
        (text_tokens(48),),
        str(file),
        dynamo=True,
        dynamic_shapes=sizes,
        input_names=["input_ids"],
        verbose=False,
    )
    tokens = text_tokens(31)
    (logits,) = onnxruntime.InferenceSession(str(file)).run(None, {"input_ids": tokens.numpy()})
    expected = checkpoint.textbook(tokens)
    difference = apart(torch.from_numpy(logits).double().log_softmax(-1), expected)
    control = apart(log_probabilities(way.model(checkpoint.steeper), tokens), expected)
    assert difference < 1e-3 < control
    record(
        "onnxruntime",
        "torch.onnx.export, run at another length: log-probabilities, by the definition",
        difference,
        control,
    )
