"""Plug-ins: Python files, or installed packages, that register policies for families that this package does not know.

A plug-in registers through `policy_registry`, as the built-in policies do. It is found by the entry-point group `alibi.plugins`, or
named with `--plugin FILE.py`. Its file travels in the checkpoints that it converts, as alibi_plugin.py, so it may import torch,
transformers and `alibi_cli.runtime.…` alone; the latter become relative imports there.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.progress import Say

GROUP = "alibi.plugins"


def load_plugins(files: Iterable[Path] = (), say: Say = lambda _: None) -> None:
    """Loads installed plug-ins and these files. say: is told of an installed one that fails, which is skipped.

    Raises:
        UsageError: one of the files cannot be loaded; it was asked for, and without it something else would be done.
    """
    from alibi_cli.runtime import alibi_plugin

    loaded = {module.__name__ for module in alibi_plugin.MODULES}
    for point in entry_points(group=GROUP):
        if point.value.partition(":")[0] not in loaded:
            try:
                found = point.load()
                alibi_plugin.MODULES.append(found if isinstance(found, ModuleType) else sys.modules[found.__module__])
            except (Exception, SystemExit) as error:
                package = point.dist.name if point.dist else point.value
                say(f"Plug-in {point.name} of {package} was skipped: {type(error).__name__}: {error}")
    for path in files:
        if path.stem not in loaded:
            try:
                alibi_plugin.MODULES.append(_load_file(path))
            except (Exception, SystemExit) as error:
                reason = (
                    "there is no such file" if not path.exists() else f"{type(error).__name__}: {first_line(error)}"
                )
                raise UsageError(f"`plugin`: {path} cannot be loaded: {reason}.") from None


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def travelling_source(modules: Iterable[str]) -> bytes | None:
    """What alibi_plugin.py has to hold in a checkpoint that was made with classes and policies of these Python modules: the source of the
    plug-in among them, with its imports of the runtime made relative. None if all of them are built in.

    Raises:
        AlibiError: there is more than one plug-in among them, or one without a source file.
    """
    foreign = sorted({name for name in modules if not name.startswith(("alibi_cli.runtime.", "transformers."))})
    if not foreign:
        return None
    if len(foreign) > 1:
        raise AlibiError(f"A checkpoint can carry the source of one plug-in; this one needs {', '.join(foreign)}.")
    try:
        source = inspect.getsource(sys.modules[foreign[0]])
    except (OSError, TypeError, KeyError):
        raise AlibiError(f"Plug-in {foreign[0]} has no source file that could travel in the checkpoint.") from None
    return re.sub(r"^from alibi_cli\.runtime\.", "from .", source, flags=re.MULTILINE).encode()
