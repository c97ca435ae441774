"""Keeping an optimizer in step with a model whose parameters changed."""

from collections.abc import Iterable
from typing import TypeAlias

from torch.nn import Parameter
from torch.optim import Optimizer

Optimizers: TypeAlias = Optimizer | Iterable[Optimizer] | None


def update_params_in_optimizer(
    old_params: Iterable[Parameter], new_params: Iterable[Parameter], optimizers: Optimizers
) -> None:
    """Takes the parameters of `old_params` that are not in `new_params` out of the optimizer, and puts the new ones in.

    New parameters join the group that the removed ones were in, at its end. The order of what stays is kept, and the optimizer's state
    of what leaves is forgotten. Frozen parameters (requires_grad=False) need not be in the optimizer.

    Raises:
        NotImplementedError: more than one optimizer.
        RuntimeError: a removed parameter is trained and not in the optimizer, or new parameters could go to more than one group. The
            optimizer is then unchanged.
    """
    optimizer = the_one(optimizers)
    if optimizer is None:
        return
    old, new = {id(p): p for p in old_params}, {id(p): p for p in new_params}
    groups = optimizer.param_groups
    held = {id(p) for group in groups for p in group["params"]}
    removed = {key: p for key, p in old.items() if key not in new}
    added = [p for key, p in new.items() if key not in old and key not in held]
    if missing := [p for key, p in removed.items() if key not in held and p.requires_grad]:
        raise RuntimeError(f"{len(missing)} of the removed parameters are not in the optimizer.")
    homes = [group for group in groups if any(id(p) in removed for p in group["params"])]
    if added and len(homes) != 1 and len(groups) > 1:
        raise RuntimeError(
            f"{len(added)} new parameters could go to any of {len(homes) or len(groups)} parameter groups; add them yourself."
        )
    for group in groups:
        keep = [n for n, p in enumerate(group["params"]) if id(p) not in removed]
        names = group.get("param_names")  # where the optimizer was made from named_parameters()
        group["params"] = [group["params"][n] for n in keep]
        if names is not None:
            group["param_names"] = [names[n] for n in keep]
    for parameter in removed.values():
        optimizer.state.pop(parameter, None)
    home = (homes or groups)[0]
    home["params"].extend(added)
    if "param_names" in home:
        home["param_names"].extend(f"added by surgery {len(home['params']) - n}" for n in range(len(added), 0, -1))


def replace_params_in_optimizer(
    old_params: Iterable[Parameter], new_params: Iterable[Parameter], optimizers: Optimizers
) -> None:
    """Puts the nth of `new_params` where the nth of `old_params` is, each in its own group and at its own place.

    The optimizer's state of what is replaced is forgotten. Parameters may span groups; those that are not listed stay.

    Raises:
        NotImplementedError: more than one optimizer.
        RuntimeError: the two are of different lengths, an old parameter is listed twice or is not in the optimizer, or a new
            one would be in it twice. The optimizer is then unchanged.
    """
    old, new = list(old_params), list(new_params)
    if len(old) != len(new):
        raise RuntimeError(f"{len(old)} old parameters cannot be replaced by {len(new)} new ones, one for one.")
    optimizer = the_one(optimizers)
    if optimizer is None:
        return
    replacement = {id(p): q for p, q in zip(old, new, strict=True)}
    if len(replacement) != len(old):
        raise RuntimeError("A parameter is listed twice among the old ones.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing := len(replacement.keys() - held):
        raise RuntimeError(f"{missing} of the old parameters are not in the optimizer.")
    changed = [[replacement.get(id(p), p) for p in group["params"]] for group in optimizer.param_groups]
    if len({id(p) for params in changed for p in params}) != sum(map(len, changed)):
        raise RuntimeError("A new parameter would be in the optimizer twice.")
    for group, params in zip(optimizer.param_groups, changed, strict=True):
        group["params"] = params
    for p, q in zip(old, new, strict=True):
        if p is not q:
            optimizer.state.pop(p, None)


def the_one(optimizers: Optimizers) -> Optimizer | None:
    """The only optimizer given, or None.

    Raises:
        NotImplementedError: more than one.
    """
    if optimizers is None or isinstance(optimizers, Optimizer):
        return optimizers
    found = list(optimizers)
    if len(found) > 1:
        raise NotImplementedError("Surgery updates one optimizer; make the others after it.")
    return found[0] if found else None
