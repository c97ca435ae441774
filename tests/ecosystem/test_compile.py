"""torch.compile and torch.export."""

from typing import Any

import pytest
import torch

from tests.ecosystem.checkpoints import Checkpoint, Way, apart, log_probabilities, text_tokens


@pytest.mark.parametrize(("name", "backend"), [("demo-gpt2", "inductor"), ("demo-llama", "aot_eager")])
def test_compile(name: str, backend: str, made: dict[str, Checkpoint], way: Way, record: Any) -> None:
    if not way.trusts:
        pytest.skip("the same functions, and a compilation takes long")
    checkpoint = made[name]
    compiled = torch.compile(way.model(checkpoint.folder), fullgraph=True, backend=backend)
    tokens = text_tokens()
    expected = checkpoint.textbook(tokens)
    difference = apart(log_probabilities(compiled, tokens, use_cache=False), expected)
    control = apart(log_probabilities(way.model(checkpoint.steeper), tokens), expected)
    assert difference < 1e-4 < control
    record("torch", "torch.compile(fullgraph=True): log-probabilities, by the definition", difference, control)


def test_export(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    model, tokens = way.model(checkpoint.folder), text_tokens(48)
    sizes = {"input_ids": {1: torch.export.Dim("length", min=2, max=512)}, "use_cache": None}
    program = torch.export.export(model, (), {"input_ids": tokens, "use_cache": False}, dynamic_shapes=sizes).module()
    shorter = text_tokens(31)
    expected = checkpoint.textbook(shorter)
    difference = apart(log_probabilities(program, shorter, use_cache=False), expected)
    control = apart(log_probabilities(way.model(checkpoint.steeper), shorter), expected)
    assert difference < 1e-4 < control
    record("torch", "torch.export, run at another length: log-probabilities, by the definition", difference, control)
