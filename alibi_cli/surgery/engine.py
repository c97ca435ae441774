"""Replacing modules in a model and keeping its optimizer in step."""

import functools
import itertools
from collections.abc import Callable, Mapping

import torch

from alibi_cli.runtime.alibi_surgery import replace_modules
from alibi_cli.surgery.optimizers import Optimizers, the_one, update_params_in_optimizer

ReplacementFunction = Callable[[torch.nn.Module, int], torch.nn.Module | None]


def replace_module_classes(
    module: torch.nn.Module,
    policies: Mapping[type[torch.nn.Module], ReplacementFunction],
    optimizers: Optimizers = None,
    recurse_on_replacements: bool = False,
    indices: dict[type[torch.nn.Module], int] | None = None,
) -> dict[torch.nn.Module, torch.nn.Module]:
    """Applies {class: function(module, module_index)} to everything below `module`, in place; returns {old module: new module}.

    A function returns a replacement, the module itself if it changed it in place, or None to leave it. `module` itself is not offered.
    A module that is shared is replaced once and linked again under each of its names. A replacement is moved to the device of what it
    replaces. Values are not copied into it. Parameters that leave or enter the model leave or enter the optimizer.

    Args:
        recurse_on_replacements: offer replacements, and what is inside them, to the policies again.
        indices: where the count of modules per class starts; updated in place.

    Raises:
        TypeError: two policies match one module, a policy returned no module, or `module` is wrapped for data parallelism.
        RecursionError: with recurse_on_replacements, the policies replace their own results without end.
        NotImplementedError: more than one optimizer; nothing is changed.
        RuntimeError: the optimizer does not fit the change, which has been made; see update_params_in_optimizer.
    """
    if isinstance(module, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        raise TypeError(
            f"Surgery must come before wrapping: pass the module inside {type(module).__name__} (its .module)."
        )
    optimizer, before = the_one(optimizers), list(module.parameters())
    fallback = _device(module)
    on_device = {cls: _keeping_the_device(policy, fallback) for cls, policy in policies.items()}
    replaced = replace_modules(module, on_device, recurse_on_replacements, indices)
    update_params_in_optimizer(before, module.parameters(), optimizer)
    return replaced


def count_module_instances(
    module: torch.nn.Module, module_class: type[torch.nn.Module] | tuple[type[torch.nn.Module], ...]
) -> int:
    """How many distinct modules below `module` are of a class: those that surgery can reach. A shared module counts once."""
    return sum(isinstance(child, module_class) for child in module.modules() if child is not module)


def _device(module: torch.nn.Module) -> torch.device | None:
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return None if tensor is None else tensor.device


def _keeping_the_device(policy: ReplacementFunction, fallback: torch.device | None) -> ReplacementFunction:
    @functools.wraps(policy)
    def moved(module: torch.nn.Module, index: int) -> torch.nn.Module | None:
        device = _device(module) or fallback
        new = policy(module, index)
        if isinstance(new, torch.nn.Module) and new is not module and device is not None:
            new.to(device)
        return new

    return moved
