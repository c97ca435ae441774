"""Gradients of overlapping parts: those of ordinary slices, once, twice, of gradients, under torch.func, and in a model."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad
from transformers import AttentionInterface, AttentionMaskInterface

from alibi_cli import apply_alibi
from alibi_cli.runtime import alibi_blocks
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME, alibi_attention, alibi_distances
from alibi_cli.runtime.alibi_parts import Parts
from tests.models import sample_tokens, tiny_model

PARTS = [
    (slice(0, 1), slice(0, 2), slice(3, 40)),
    (slice(None), slice(None), slice(0, 20)),
    (slice(1, 2), slice(2, 3), slice(10, 50)),
]
TOKENS = 600  # more than are attended to at once


@pytest.fixture
def tensor() -> Tensor:
    return torch.randn(2, 3, 50, 4, dtype=torch.float64, requires_grad=True)


def of_parts(source: Any) -> Tensor:
    return sum((source[index].sin() * (nth + 1)).pow(2).sum() for nth, index in enumerate(PARTS))


def of_tensor(tensor: Tensor) -> Tensor:
    return of_parts(Parts(tensor * 1))


def test_the_gradient_is_that_of_slices(tensor: Tensor) -> None:
    (expected,) = torch.autograd.grad(of_parts(tensor), tensor)
    loss = of_tensor(tensor)
    first, second = (torch.autograd.grad(loss, tensor, retain_graph=retain)[0] for retain in (True, False))
    assert torch.equal(first, expected) and torch.equal(second, expected)
    assert torch.equal(grad(of_tensor)(tensor.detach()), expected)
    parts = Parts(tensor)
    (of_parts(parts) + parts.whole.sum()).backward()
    assert torch.allclose(tensor.grad, expected + 1, rtol=0, atol=1e-12)
    assert not torch.allclose(expected, torch.autograd.grad(of_parts(tensor * 1)[None] * 1.1, tensor)[0])


def test_a_gradient_has_a_gradient(tensor: Tensor) -> None:
    found = []
    for of in (of_parts, of_tensor):
        (first,) = torch.autograd.grad(of(tensor), tensor, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), tensor)[0])
    assert torch.equal(*found) and found[0].abs().max() > 1


def test_nothing_is_kept_without_a_gradient(tensor: Tensor) -> None:
    with torch.no_grad():
        assert Parts(tensor)[PARTS[0]].grad_fn is None
    assert Parts(tensor.detach())[PARTS[0]].grad_fn is None and Parts(tensor)[PARTS[0]].grad_fn is not None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_a_graph_keeps_no_keys_when_it_is_gone(backward: bool, checkpointing: bool, monkeypatch) -> None:
    """Without the collector of cycles, which would come too late: a step of many layers would keep the keys of all."""
    model: Any = tiny_model("llama", max_position_embeddings=TOKENS, num_hidden_layers=4)
    apply_alibi(model, TOKENS)
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    made: list[weakref.ref[Tensor]] = []

    class Watched(Parts):
        def __init__(self, tensor: Tensor):
            super().__init__(tensor)
            made.append(weakref.ref(self.whole))

    monkeypatch.setattr(alibi_blocks, "Parts", Watched)
    AttentionInterface.register(
        ATTENTION_NAME, alibi_attention
    )  # a checkpoint that was loaded before has brought a copy
    AttentionMaskInterface.register(ATTENTION_NAME, alibi_distances)
    tokens = sample_tokens(1, TOKENS)
    gc.collect()
    gc.disable()
    try:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        assert made and (not checkpointing or not any(each() is not None for each in made[:-2]))
        if backward:
            loss.backward()
        del loss
        assert not any(each() is not None for each in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("policy", ["replace", "add"])
def test_torch_func_has_the_gradients_of_backward(policy: str, sinks: int) -> None:
    model: Any = tiny_model("llama", max_position_embeddings=TOKENS)
    added = dict(offsets=[64.0] * 6, sink_distance=64 if sinks else None) if policy == "add" else {}
    apply_alibi(model, TOKENS, policy=policy, sinks=sinks, **added)
    tokens = sample_tokens(1, TOKENS)
    fed = dict(input_ids=tokens, labels=tokens, use_cache=False)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    found = grad(lambda given: functional_call(model, given, kwargs=fed).loss)(weights)
    model(**fed).loss.backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(found[name], weight.grad, rtol=0, atol=1e-9), name
        assert weight.grad.abs().max() > 1e-6
