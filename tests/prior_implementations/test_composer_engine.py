"""Composer's module surgery and its optimizers, row by row (docs/prior-implementations.md). More in tests/surgery/test_engine.py."""

import pytest
import torch
from torch import nn

from alibi_cli import (
    count_module_instances,
    replace_module_classes,
    replace_params_in_optimizer,
    update_params_in_optimizer,
)


def params(n: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((1,), float(i))) for i in range(n)]


def groups(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


def adam(*parts: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam([{"params": part} for part in parts])
    for part in parts:
        for p in part:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def test_s1_subclasses_match_and_policies_see_module_and_index() -> None:
    class Mine(nn.Linear):
        pass

    seen = []
    replace_module_classes(
        nn.Sequential(Mine(1, 1), nn.Linear(1, 1)), {nn.Linear: lambda m, i: seen.append((type(m), i))}
    )
    assert seen == [(Mine, 0), (nn.Linear, 1)]


def test_s2_the_root_is_neither_replaced_nor_counted() -> None:
    linear = nn.Linear(1, 1)
    assert replace_module_classes(linear, {nn.Linear: lambda m, i: nn.ReLU()}) == {}
    assert (
        count_module_instances(linear, nn.Linear) == 0 and count_module_instances(nn.Sequential(linear), nn.Linear) == 1
    )


@pytest.mark.parametrize("recurse", [False, True])
def test_s4_aliases_of_one_parent_and_of_several(recurse: bool) -> None:
    class Parent(nn.Module):
        def __init__(self, shared: nn.Module):
            super().__init__()
            self.a = self.b = shared
            self.deeper = nn.Sequential(nn.Sequential(shared), shared)

    model = Parent(nn.Linear(1, 1))
    calls = []
    replaced = replace_module_classes(
        model, {nn.Linear: lambda m, i: calls.append(i) or nn.ReLU()}, recurse_on_replacements=recurse
    )
    assert len(replaced) == 1 and calls == [0]
    assert isinstance(model.a, nn.ReLU) and model.a is model.b is model.deeper[0][0] is model.deeper[1]


def test_s6_modules_in_plain_lists_are_invisible_as_they_are_to_torch() -> None:
    model = nn.Module()
    model.layers = [nn.Linear(1, 1)]
    assert replace_module_classes(model, {nn.Linear: lambda m, i: nn.ReLU()}) == {} and not list(model.parameters())


@pytest.mark.parametrize("depth", [1, 2])
def test_s7_a_wrapper_keeps_what_it_wraps(depth: int) -> None:
    """With recursion, the module inside its own replacement is met again; linking it would put the wrapper into itself."""

    def wrap(module: nn.Module, index: int) -> nn.Module:
        return nn.Sequential(module) if depth == 1 else nn.Sequential(nn.Sequential(module))

    for recurse in (False, True):
        old = nn.Linear(2, 3)
        model = nn.Sequential(old, nn.Sequential(old))
        replaced = replace_module_classes(model, {nn.Linear: wrap}, recurse_on_replacements=recurse)
        assert len(replaced) == 1 and model[0] is model[1][0] is replaced[old] and old in list(model.modules())
        assert model[0](torch.ones(1, 2)).shape == (1, 3)


def test_s7_replacing_without_end_is_an_error() -> None:
    with pytest.raises(RecursionError):
        replace_module_classes(
            nn.Sequential(nn.ReLU()), {nn.ReLU: lambda m, i: nn.ReLU()}, recurse_on_replacements=True
        )
    a, b = nn.ReLU(), nn.Tanh()
    with pytest.raises(RecursionError):
        replace_module_classes(
            nn.Sequential(a), {nn.ReLU: lambda m, i: b, nn.Tanh: lambda m, i: a}, recurse_on_replacements=True
        )
    replaced = replace_module_classes(nn.Sequential(nn.ReLU()), {nn.ReLU: lambda m, i: nn.ReLU()})
    assert len(replaced) == 1


def test_s8_a_replacement_goes_where_the_replaced_module_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.ReLU(), nn.Linear(2, 2))
    replace_module_classes(model, {nn.Linear: lambda m, i: nn.Linear(2, 3, device="cpu")})
    assert model[0].weight.device.type == "meta" and model[2].weight.device.type == "cpu"
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    replace_module_classes(model, {nn.ReLU: lambda m, i: nn.PReLU()}, optimizer)
    assert model[1].weight.device.type == "meta" and groups(optimizer) == [[id(p) for p in model.parameters()]]


def test_s8_several_optimizers_are_refused_before_anything_is_changed() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    before, optimizer = model[0], torch.optim.SGD(model.parameters(), lr=1)
    with pytest.raises(NotImplementedError):
        replace_module_classes(model, {nn.Linear: lambda m, i: nn.ReLU()}, [optimizer, optimizer])
    assert model[0] is before


def test_s12_order_state_and_what_both_have() -> None:
    a, b, c, d, e = params(5)
    optimizer = adam([a, b, c])
    update_params_in_optimizer([a, b], [b, d, e, d], optimizer)
    assert groups(optimizer) == [[id(p) for p in (b, c, d, e)]]
    assert a not in optimizer.state and b in optimizer.state and c in optimizer.state
    update_params_in_optimizer([], [b, c], optimizer)  # held already
    assert groups(optimizer) == [[id(p) for p in (b, c, d, e)]]
    two = adam([a], [b])
    update_params_in_optimizer([], [a], two)
    assert groups(two) == [[id(a)], [id(b)]]
    update_params_in_optimizer([b], [c], two)
    assert groups(two) == [[id(a)], [id(c)]]


def test_s12_named_parameters_keep_their_names() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.PReLU())
    optimizer = torch.optim.SGD(model.named_parameters(), lr=1)
    replace_module_classes(model, {nn.Linear: lambda m, i: nn.Linear(1, 2)}, optimizer)
    group = optimizer.param_groups[0]
    assert len(group["params"]) == len(group["param_names"]) == 3 and group["param_names"][0] == "1.weight"
    assert groups(optimizer) == [[id(p) for p in (*model[1].parameters(), *model[0].parameters())]]


@pytest.mark.parametrize("parts", [1, 2])
def test_s13_a_missing_parameter_is_detected_with_one_group_as_with_many(parts: int) -> None:
    a, b, c, d = params(4)
    for call in (update_params_in_optimizer, replace_params_in_optimizer):
        optimizer = adam([a], [b]) if parts == 2 else adam([a, b])
        before = groups(optimizer)
        with pytest.raises(RuntimeError, match="not in the optimizer"):
            call([a, c], [d, b] if call is update_params_in_optimizer else [d, c], optimizer)
        assert groups(optimizer) == before and a in optimizer.state


@pytest.mark.parametrize("parts", [1, 2])
def test_s14_replacement_keeps_group_and_place(parts: int) -> None:
    a, b, c, x, y = params(5)
    optimizer = adam([a, b], [c]) if parts == 2 else adam([a, b, c])
    replace_params_in_optimizer(iter([c, a]), iter([x, y]), [optimizer])
    expected = [[y, b], [x]] if parts == 2 else [[y, b, x]]
    assert groups(optimizer) == [[id(p) for p in group] for group in expected]
    assert a not in optimizer.state and b in optimizer.state
    replace_params_in_optimizer([b], [b], optimizer)
    assert b in optimizer.state
    replace_params_in_optimizer([b], [a], [])
    replace_params_in_optimizer([b], [a], None)


@pytest.mark.parametrize("parts", [1, 2])
def test_s14_unequal_lengths_are_detected_both_ways(parts: int) -> None:
    a, b, c, d = params(4)
    optimizer = adam([a], [b]) if parts == 2 else adam([a, b])
    before = groups(optimizer)
    for old, new, says in (
        ([a, b], [c], "2 old parameters cannot be replaced by 1"),
        ([a], [c, d], "1 old parameters cannot be replaced by 2"),
        ([a, a], [c, d], "listed twice"),
        ([a], [b], "in the optimizer twice"),
        ([a, b], [c, c], "in the optimizer twice"),
    ):
        with pytest.raises(RuntimeError, match=says):
            replace_params_in_optimizer(old, new, optimizer)
        assert groups(optimizer) == before
    with pytest.raises(NotImplementedError):
        replace_params_in_optimizer([a], [c], [optimizer, optimizer])


def test_s15_values_are_kept_by_a_policy_that_keeps_them_and_by_no_other() -> None:
    def keep(module: nn.Linear, index: int) -> nn.Module:
        new = nn.Linear(2, 2)
        new.weight = module.weight
        return new

    model = nn.Sequential(nn.Linear(2, 2))
    weight, bias = model[0].weight, model[0].bias
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    replace_module_classes(model, {nn.Linear: keep}, optimizer)
    assert model[0].weight is weight and model[0].bias is not bias
    assert groups(optimizer) == [[id(weight), id(model[0].bias)]]
