"""Keeping an optimizer in step with a model whose parameters changed."""

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Optimizer


def update_params_in_optimizer(
    old_params: Iterable[Parameter], new_params: Iterable[Parameter], optimizers: Optimizer | Iterable[Optimizer]
) -> None:
    """Takes the parameters of `old_params` that are not in `new_params` out of the optimizer, and puts the new ones in.

    New parameters join the group that the removed ones were in. The order of what stays is kept, and the optimizer's state of what
    leaves is forgotten.

    Raises:
        NotImplementedError: more than one optimizer.
        RuntimeError: a removed parameter is not in the optimizer, or new parameters could go to more than one group.
    """
    optimizer = _the_one(optimizers)
    if optimizer is None:
        return
    old, new = list(old_params), list(new_params)
    removed = {id(p): p for p in old if all(p is not q for q in new)}
    old_ids, groups = {id(p) for p in old}, optimizer.param_groups
    added = [p for p in new if id(p) not in old_ids]
    held = {id(p) for group in groups for p in group["params"]}
    if missing := [p for key, p in removed.items() if key not in held and p.requires_grad]:
        raise RuntimeError(f"{len(missing)} of the removed parameters are not in the optimizer.")
    homes = [group for group in groups if any(id(p) in removed for p in group["params"])]
    if added and len(homes) != 1 and len(groups) > 1:
        raise RuntimeError(
            f"{len(added)} new parameters could go to any of {len(homes) or len(groups)} parameter groups; add them yourself."
        )
    added = [p for p in added if id(p) not in held]
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in removed]
    for parameter in removed.values():
        optimizer.state.pop(parameter, None)
    (homes or groups)[0]["params"].extend(added)


def _the_one(optimizers: Optimizer | Iterable[Optimizer]) -> Optimizer | None:
    found = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    if len(found) > 1:
        raise NotImplementedError("Surgery updates one optimizer; make the others after it.")
    return found[0] if found else None
