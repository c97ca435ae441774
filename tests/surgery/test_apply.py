"""`apply_alibi` on a model that it was applied to before, on one that it refuses, and on one that is not of transformers."""

import copy
from collections.abc import Iterator

import pytest
import torch

from alibi_cli import apply_alibi, policy_registry
from tests.models import sample_tokens, tiny_model

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 12}
TWO_SCALES = {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}


def test_a_vector_that_is_not_asked_for_again_is_taken_out() -> None:
    model, tokens = tiny_model("gpt2"), sample_tokens(1, 20)
    plain = copy.deepcopy(model)
    apply_alibi(plain, 64)
    apply_alibi(model, 64, position_vector=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    vector = model.transformer.wpe.vector
    vector.data.copy_(torch.arange(48))
    apply_alibi(model, 64, position_vector=True)  # it is kept
    assert model.transformer.wpe.vector is vector
    assert (model(input_ids=tokens).logits - plain(input_ids=tokens).logits).abs().max() > 1e-3
    apply_alibi(model, 64, optimizers=optimizer)
    assert not model.config.alibi_position_vector and list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    assert all(parameter is not vector for group in optimizer.param_groups for parameter in group["params"])


@pytest.mark.parametrize("policy", ["replace", "add"])
def test_what_is_not_asked_for_again_is_taken_back_and_another_policy_is_refused(policy: str) -> None:
    model, tokens = tiny_model("llama"), sample_tokens(1, 20)
    plain = copy.deepcopy(model)
    apply_alibi(plain, 64, policy=policy)
    apply_alibi(model, 64, policy=policy, sinks=3, offsets=[2.0] * 6 if policy == "add" else None)
    assert (model(input_ids=tokens).logits - plain(input_ids=tokens).logits).abs().max() > 1e-3
    apply_alibi(model, 64, policy=policy)
    assert not model.config.alibi_sinks and not model.config.alibi_offsets
    assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    with pytest.raises(ValueError, match=f"converted already, with policy '{policy}'"):
        apply_alibi(model, 64, policy="add" if policy == "replace" else "replace")
    assert torch.equal(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)


@pytest.mark.parametrize(
    ("name", "changes", "settings", "says"),
    [
        ("llama", {}, {"policy": "ad"}, "There is no policy 'ad'; there are replace, add"),
        ("llama", {}, {"offsets": [1.0] * 6}, "textbook ALiBi"),
        ("llama", {}, {"policy": "add", "offsets": []}, "must hold 6 offsets"),
        ("llama", {}, {"policy": "add", "offsets": [-1.0] * 6}, "alibi_offsets must be finite and not negative"),
        ("llama", {}, {"policy": "add", "offsets": [[1.0] * 6]}, "must hold 6 offsets"),
        ("llama", {}, {"sinks": -1}, "sinks must be a whole number"),
        ("llama", {}, {"sinks": 1.0}, "sinks must be a whole number"),
        ("bloom", {}, {"sinks": 2}, "knows no attention sinks"),
        ("mpt", {}, {"sinks": 2}, "knows no attention sinks"),
        ("falcon", {"alibi": True}, {}, "has ALiBi already, of a kind of its own"),
        ("xglm", {"add_cross_attention": True}, {}, "XGLM with cross-attention is not supported"),
        ("modernbert", {"rope_parameters": TWO_SCALES}, {}, "rotates layers by different widths or scales"),
        (
            "esm",
            {"position_embedding_type": "absolute"},
            {"policy": "add"},
            "Policy add needs a rotation, which has no end; the position embeddings of this EsmForMaskedLM end at 24 tokens",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(name, changes, settings, says) -> None:
    model, tokens = tiny_model(name, torch.float32, **changes), sample_tokens(1, 9)
    expected, before = model(input_ids=tokens).logits, state_of(model)
    with pytest.raises(ValueError, match=says):
        apply_alibi(model, 64, **settings)
    assert state_of(model) == before and "Alibi" not in type(model.config).__name__ + type(model).__name__
    assert torch.equal(model(input_ids=tokens).logits, expected)


def state_of(model: torch.nn.Module) -> list:
    """Config, module classes, tensors, hooks and other attributes."""
    modules = {
        name: (type(module), sorted(vars(module)), list(module._forward_pre_hooks), list(module._forward_hooks))
        for name, module in model.named_modules()
    }
    return [model.config.to_dict(), model.config._attn_implementation, modules, list(model.state_dict())]


@pytest.mark.parametrize("name", ["bart", "t5", "gpt2", "llama", "codegen"])
def test_surgery_that_fails_in_the_middle_is_undone(name: str, monkeypatch) -> None:
    model, tokens = tiny_model(name, torch.float32), sample_tokens(1, 9)
    handles = [module.register_forward_hook(lambda *_: None) for module in model.modules()]
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})
    expected, before = model(**inputs).logits, state_of(model)
    optimizer = torch.optim.SGD(model.lm_head.parameters(), lr=1)
    heads = model.config.num_attention_heads
    if name in ("bart", "t5"):  # their layers are in two stacks
        with pytest.raises(ValueError, match="slopes per layer do not fit"):
            apply_alibi(model, 64, slopes=[[0.5] * heads] * 2)
    else:
        monkeypatch.setattr("alibi_cli.surgery.apply._become_converted", lambda model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            apply_alibi(model, 64, sinks=1)
        monkeypatch.undo()
    if name == "gpt2":
        with pytest.raises(RuntimeError, match="not in the optimizer"):
            apply_alibi(model, 64, optimizers=optimizer)
    assert state_of(model) == before and torch.equal(model(**inputs).logits, expected)
    for handle in handles:
        handle.remove()
    assert not any(module._forward_hooks for module in model.modules())
    apply_alibi(model, 64)  # what fits is done as if nothing had been
    fresh = tiny_model(name, torch.float32)
    apply_alibi(fresh, 64)
    assert torch.equal(model(**inputs).logits, fresh(**inputs).logits)


class Positions(torch.nn.Module):
    """A part of your own model."""


class Attention(torch.nn.Module):
    """Another."""

    bias = None


class Mine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions, self.first, self.second = Positions(), Attention(), Attention()
        self.positions.table = torch.nn.Embedding(9, 4)


@pytest.fixture
def own_policies() -> Iterator[None]:
    @policy_registry.register(Positions)
    def drop(module: torch.nn.Module, module_index: int, max_sequence_length: int) -> torch.nn.Module:
        return torch.nn.Identity()

    @policy_registry.register(Attention)
    def take(module: torch.nn.Module, module_index: int, max_sequence_length: int) -> torch.nn.Module:
        module.bias = (module_index, max_sequence_length)
        return module

    yield
    del policy_registry[Positions], policy_registry[Attention]


def test_a_model_of_ones_own_is_rewritten_by_its_policies(own_policies: None) -> None:
    model = Mine()
    optimizer = torch.optim.SGD([*model.parameters(), torch.nn.Parameter(torch.ones(1))], lr=1)
    apply_alibi(model, 64, optimizers=optimizer)
    assert type(model.positions) is torch.nn.Identity and not list(model.parameters())
    assert [model.first.bias, model.second.bias] == [(0, 64), (1, 64)]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
    root = Attention()
    apply_alibi(root, 8)
    assert root.bias == (0, 8)


def test_a_model_of_ones_own_that_cannot_be_rewritten(own_policies: None) -> None:
    model = Mine()
    for settings, says in (
        ({"slopes": [0.5]}, "`slopes`"),
        ({"sinks": 2}, "`sinks`"),
        ({"policy": "add"}, "none of a class that policy 'add' has a function for"),
        ({"policy": "ad"}, "There is no policy 'ad'"),
    ):
        with pytest.raises(ValueError, match=says):
            apply_alibi(model, 64, **settings)
    del policy_registry[Positions]
    policy_registry.register(Positions)(fails_halfway)
    model.last = model._modules.pop("positions")  # after the attention
    with pytest.raises(ValueError, match="halfway"):
        apply_alibi(model, 64)
    assert model.first.bias is None and "bias" not in vars(model.first) and type(model.last) is Positions
    layer = tiny_model("llama").model.layers[0].self_attn  # its slopes would be in the config of its model
    with pytest.raises(ValueError, match="changed nothing"):
        apply_alibi(torch.nn.Sequential(layer), 64)


def fails_halfway(module: torch.nn.Module, module_index: int, max_sequence_length: int) -> torch.nn.Module:
    raise ValueError("halfway")
