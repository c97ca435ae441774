"""replace_module_classes and the optimizer that follows it."""

import pytest
import torch
from torch import nn

from alibi_cli import count_module_instances, replace_module_classes, update_params_in_optimizer


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5408, 128),
        nn.ReLU(),
        nn.LogSoftmax(dim=1),
    )


def test_replacements_and_recursion_as_documented() -> None:
    policies = {
        nn.Conv2d: lambda m, i: nn.Linear(16, 32),
        nn.Linear: lambda m, i: nn.Linear(32, 64) if m.in_features == 16 else None,
    }
    model = chain()
    replaced = replace_module_classes(model, policies, recurse_on_replacements=True)
    assert model[0].in_features == 32 and model[4].in_features == 5408
    assert [(type(a).__name__, b.out_features) for a, b in replaced.items()] == [("Conv2d", 32), ("Linear", 64)]
    model = chain()
    assert len(replace_module_classes(model, policies)) == 1 and model[0].in_features == 16


def test_recursion_reaches_the_children_of_replacements_only_if_asked() -> None:
    def wrap(module, index):
        return nn.Sequential(nn.Linear(2, 2)) if isinstance(module, nn.Conv2d) else None

    for recurse, expected in ((False, 2), (True, 3)):
        model = nn.Sequential(nn.Conv2d(1, 1, 1))
        replace_module_classes(
            model,
            {nn.Conv2d: wrap, nn.Linear: lambda m, i: nn.Linear(3, 3) if m.in_features == 2 else None},
            None,
            recurse,
        )
        assert model[0][0].in_features == expected


def test_the_root_is_not_replaced_and_an_absent_class_is_not_called() -> None:
    assert replace_module_classes(nn.Linear(1, 1), {nn.Linear: lambda m, i: nn.Linear(2, 2)}) == {}
    replace_module_classes(nn.Sequential(nn.ReLU()), {nn.Linear: lambda m, i: pytest.fail("called")})


def test_indices_count_per_class_and_can_be_continued() -> None:
    seen = []
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    for start, expected in (({}, [0, 1, 2]), ({nn.Linear: 5}, [5, 6, 7]), (None, [0, 1, 2])):
        seen.clear()
        replace_module_classes(model, {nn.Linear: lambda m, i: seen.append(i)}, indices=start)
        assert seen == expected
        if start is not None:
            assert start == {nn.Linear: expected[-1] + 1}


def test_only_one_index() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    replace_module_classes(model, {nn.Linear: lambda m, i: nn.ReLU() if i == 1 else None})
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Linear"]


def test_every_alias_of_a_shared_module_is_linked_again() -> None:
    class Parent(nn.Module):
        def __init__(self, shared: nn.Module):
            super().__init__()
            self.a, self.b, self.c, self.inner = shared, shared, shared, nn.Sequential(shared)

    model = Parent(nn.Linear(1, 1))
    replaced = replace_module_classes(model, {nn.Linear: lambda m, i: nn.Linear(2, 2)})
    assert len(replaced) == 1 and model.a is model.b is model.c is model.inner[0] and model.a.in_features == 2


def test_two_policies_for_one_module_name_both() -> None:
    def for_base(m, i):
        return None

    def for_linear(m, i):
        return None

    with pytest.raises(TypeError, match=r"Module \(for_base\) and Linear \(for_linear\)"):
        replace_module_classes(nn.Sequential(nn.Linear(1, 1)), {nn.Module: for_base, nn.Linear: for_linear})


def test_bad_policies_and_wrapped_models() -> None:
    with pytest.raises(TypeError, match="returned a int"):
        replace_module_classes(nn.Sequential(nn.Linear(1, 1)), {nn.Linear: lambda m, i: 3})
    with pytest.raises(TypeError, match=r"\.module"):
        replace_module_classes(nn.DataParallel(nn.Linear(1, 1)), {})


def test_count() -> None:
    shared = nn.Linear(1, 1)
    model = nn.Sequential(shared, shared, nn.Linear(1, 1), nn.ReLU())
    assert count_module_instances(model, nn.Linear) == 2
    assert count_module_instances(model, (nn.Linear, nn.ReLU)) == 3


def held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_parameters_leave_and_enter_with_their_state() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    gone, kept = list(model[1].parameters()), list(model[0].parameters())
    replace_module_classes(model, {nn.Linear: lambda m, i: nn.Linear(2, 3) if i == 1 else None}, optimizer)
    assert {id(p) for p in held(optimizer)} == {id(p) for p in model.parameters()}
    assert not any(p in optimizer.state for p in gone) and all(p in optimizer.state for p in kept)


def test_a_policy_that_changes_a_module_in_place_updates_the_optimizer_too() -> None:
    def shrink(module, index):
        module.weight = nn.Parameter(torch.zeros(1, 2))
        return module

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    replace_module_classes(model, {nn.Linear: lambda m, i: shrink(m, i) if i == 0 else None}, optimizer)
    assert {id(p) for p in held(optimizer)} == {id(p) for p in model.parameters()}


def test_update_keeps_order_and_refuses_what_is_unclear() -> None:
    a, b, c, d = (nn.Parameter(torch.zeros(1)) for _ in range(4))
    optimizer = torch.optim.Adam([a, b])
    update_params_in_optimizer([a, b], [c, d], optimizer)
    assert all(x is y for x, y in zip(held(optimizer), [c, d], strict=True))
    for groups in (1, 2):
        optimizer = torch.optim.Adam([{"params": [a]}, {"params": [b]}][:groups])
        with pytest.raises(RuntimeError, match="not in the optimizer"):
            update_params_in_optimizer([d], [c], optimizer)
    optimizer = torch.optim.Adam([{"params": [a]}, {"params": [b]}])
    with pytest.raises(RuntimeError, match="parameter groups"):
        update_params_in_optimizer([a, b], [c], optimizer)
    with pytest.raises(RuntimeError, match="parameter groups"):
        update_params_in_optimizer([], [c], optimizer)
    with pytest.raises(NotImplementedError):
        update_params_in_optimizer([a], [b], [optimizer, optimizer])
    update_params_in_optimizer([a], [b], [])
