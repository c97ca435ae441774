"""Replacing modules in a model and keeping its optimizer in step."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch.optim import Optimizer

from alibi_cli.runtime.alibi_surgery import replace_modules
from alibi_cli.surgery.optimizers import update_params_in_optimizer

ReplacementFunction = Callable[[torch.nn.Module, int], torch.nn.Module | None]


def replace_module_classes(
    module: torch.nn.Module,
    policies: Mapping[type[torch.nn.Module], ReplacementFunction],
    optimizers: Optimizer | Iterable[Optimizer] | None = None,
    recurse_on_replacements: bool = False,
    indices: dict[type[torch.nn.Module], int] | None = None,
) -> dict[torch.nn.Module, torch.nn.Module]:
    """Applies {class: function(module, module_index)} to everything below `module`, in place; returns {old module: new module}.

    A function returns a replacement, the module itself if it changed it in place, or None to leave it. A module that is
    shared is replaced once and linked again under each of its names. Parameters that leave or enter the model leave or enter the optimizer.

    Args:
        recurse_on_replacements: offer replacements, and what is inside them, to the policies again.
        indices: where the count of modules per class starts; updated in place.

    Raises:
        TypeError: two policies match one module, a policy returned no module, or `module` is wrapped for data parallelism.
    """
    if isinstance(module, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        raise TypeError(
            f"Surgery must come before wrapping: pass the module inside {type(module).__name__} (its .module)."
        )
    before = list(module.parameters())
    replaced = replace_modules(module, policies, recurse_on_replacements, indices)
    if optimizers is not None:
        update_params_in_optimizer(before, list(module.parameters()), optimizers)
    return replaced


def count_module_instances(
    module: torch.nn.Module, module_class: type[torch.nn.Module] | tuple[type[torch.nn.Module], ...]
) -> int:
    """How many distinct modules below and including `module` are of a class; a shared module counts once."""
    return sum(isinstance(child, module_class) for child in module.modules())
