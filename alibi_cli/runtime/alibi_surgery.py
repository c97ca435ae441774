"""Module surgery: the walk that applies functions to the modules of a model."""

from typing import Any

import torch

LONGEST_CHAIN = 100  # replacements of one module's replacement, and so on


def replace_modules(
    root: torch.nn.Module,
    policies: Any,
    recurse_on_replacements: bool = False,
    indices: dict[Any, int] | None = None,
    visit_root: bool = False,
) -> dict[torch.nn.Module, torch.nn.Module]:
    """Applies {class: function(module, index)} below `root`, in place; returns {old module: new module}.

    A module that several parents or several names share is rewritten once and linked again everywhere. The index counts the
    modules that a class has matched so far. With `visit_root` the root is offered to the policies too, which may then only change it
    in place.

    Raises:
        TypeError: two policies match one module, or a policy returned something that is not a module or would replace the root.
        RecursionError: the policies replace their own results without end.
    """
    indices = {} if indices is None else indices
    replaced: dict[torch.nn.Module, torch.nn.Module] = {}
    visited: set[torch.nn.Module] = set()

    def rewrite(module: torch.nn.Module) -> torch.nn.Module | None:
        matches = [cls for cls in policies if isinstance(module, cls)]
        if len(matches) > 1:
            names = " and ".join(
                f"{cls.__name__} ({getattr(policies[cls], '__name__', policies[cls])})" for cls in matches
            )
            raise TypeError(f"More than one policy matches a {type(module).__name__}: {names}.")
        if not matches:
            return None
        index = indices.setdefault(matches[0], 0)
        indices[matches[0]] = index + 1
        new = policies[matches[0]](module, index)
        if new is not None and not isinstance(new, torch.nn.Module):
            raise TypeError(f"The policy for {matches[0].__name__} returned a {type(new).__name__}, not a module.")
        return new

    def final(module: torch.nn.Module) -> torch.nn.Module:
        chain = 0
        while replaced.get(module, module) is not module:
            module, chain = replaced[module], chain + 1
            if chain > LONGEST_CHAIN:
                raise RecursionError(f"The policies replace a {type(module).__name__} without end.")
        return module

    def visit(parent: torch.nn.Module, above: tuple[torch.nn.Module, ...] = ()) -> None:
        above = (*above, parent)
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in visited:
                visited.add(child)
                new = rewrite(child)
                if new is not None:
                    replaced[child] = new
                while recurse_on_replacements and new is not None and new is not child and new not in visited:
                    visited.add(new)
                    following = rewrite(new)
                    if following is not None:
                        replaced[new] = following
                        final(child)  # raises if there is no end to it
                    new = following
                if final(child) is child or recurse_on_replacements:
                    visit(final(child), above)
            # A replacement that contains what it replaces, such as a wrapper, keeps it.
            if final(child) is not child and not any(final(child) is module for module in above):
                setattr(parent, name, final(child))

    if visit_root:
        visited.add(root)
        new = rewrite(root)
        if new is not None and new is not root:
            raise TypeError(f"The root {type(root).__name__} cannot be replaced; its policy must change it in place.")
        if new is not None:
            replaced[root] = root
    visit(root)
    return replaced
