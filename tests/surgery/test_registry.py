"""PolicyRegistry: what may be registered, and what is said when it may not."""

from __future__ import annotations

import pytest
import torch

from alibi_cli import PolicyRegistry, policy_registry
from alibi_cli.runtime.alibi_modules import take_bias
from alibi_cli.runtime.alibi_registry import origin


def policy(
    module: torch.nn.Module, module_index: int, max_sequence_length: int
):  # annotations are strings in this file
    return module


@pytest.fixture
def registry() -> PolicyRegistry:
    return PolicyRegistry()


def test_one_function_serves_several_classes_and_is_returned_unchanged(registry: PolicyRegistry) -> None:
    assert registry.register(torch.nn.Linear, torch.nn.Conv2d)(policy) is policy
    assert registry[torch.nn.Linear] is registry[torch.nn.Conv2d] is policy
    del registry[torch.nn.Linear]
    assert torch.nn.Linear not in registry and torch.nn.Conv2d in registry and len(registry) == 1


def test_no_classes(registry: PolicyRegistry) -> None:
    with pytest.raises(ValueError, match="without any module class inputs has no effect"):
        registry.register()


def no_arguments():
    pass


def first_is_wrong(module: str, module_index: int, max_sequence_length: int):
    pass


def first_has_no_type(module, module_index: int, max_sequence_length: int):
    pass


def second_is_wrong(module: torch.nn.Module, module_index: float, max_sequence_length: int):
    pass


def third_is_wrong(module: torch.nn.Module, module_index: int, max_sequence_length: str):
    pass


def third_has_another_name(module: torch.nn.Module, module_index: int, length: int):
    pass


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (no_arguments, ValueError, "accept 3 arguments; no_arguments accepts 0"),
        (first_is_wrong, TypeError, 'first argument of first_is_wrong must be of type "torch.nn.Module"'),
        (first_has_no_type, TypeError, "first argument"),
        (second_is_wrong, TypeError, 'second argument of second_is_wrong must be of type "int"'),
        (third_is_wrong, TypeError, "third argument"),
        (third_has_another_name, NameError, 'must be named "max_sequence_length"'),
    ],
)
def test_signatures_are_checked(registry: PolicyRegistry, function, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        registry.register(torch.nn.Linear)(function)
    assert not registry


@pytest.mark.parametrize("bad", [dict, 3, torch.nn.Linear(1, 1), None])
def test_what_is_no_module_class_is_refused_and_nothing_is_registered(registry: PolicyRegistry, bad) -> None:
    with pytest.raises(TypeError, match=r"not a subclass of torch.nn.Module"):
        registry.register(torch.nn.Linear, bad)(policy)
    assert not registry


def test_duplicates_name_both_origins_and_register_nothing(registry: PolicyRegistry) -> None:
    registry.register(torch.nn.Linear)(policy)

    def other(module: torch.nn.Module, module_index: int, max_sequence_length: int):
        return module

    with pytest.raises(ValueError, match="already been registered for module Linear") as error:
        registry.register(torch.nn.Conv2d, torch.nn.Linear)(other)
    assert origin(policy) in str(error.value) and origin(other) in str(error.value)
    assert torch.nn.Conv2d not in registry
    with pytest.raises(ValueError, match="already been registered"):
        registry.register(torch.nn.Conv2d, torch.nn.Conv2d)(other)


def test_a_path_and_its_class_are_the_same_key(registry: PolicyRegistry) -> None:
    registry.register("torch.nn.modules.linear.Linear")(policy)
    assert (
        torch.nn.Linear in registry
        and registry[torch.nn.Linear] is policy
        and registry.loaded() == {torch.nn.Linear: policy}
    )
    with pytest.raises(ValueError, match="already been registered"):
        registry.register(torch.nn.Linear)(policy)
    registry.register("no.such.module.Thing")(policy)
    assert registry.loaded() == {torch.nn.Linear: policy}
    del registry[torch.nn.Linear]
    assert torch.nn.Linear not in registry


def test_unknown_look_ups_suggest_a_name() -> None:
    class GPT2Attentoin(torch.nn.Module):
        pass

    with pytest.raises(KeyError, match="Did you mean GPT2Attention"):
        policy_registry[GPT2Attentoin]
    with pytest.raises(KeyError, match="No ALiBi policy for Linear"):
        policy_registry[torch.nn.Linear]


def test_the_built_in_policies_are_registered_like_any_other() -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    assert policy_registry[LlamaAttention] is take_bias


def test_a_users_subclass_is_matched() -> None:
    from transformers import LlamaForCausalLM

    from alibi_cli import apply_alibi
    from tests.models import tiny_config

    class Mine(LlamaForCausalLM):
        pass

    model = Mine(tiny_config("llama"))
    apply_alibi(model, 64)
    assert type(model) is Mine and model.model.layers[0].self_attn.alibi_slopes
