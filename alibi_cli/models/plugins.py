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
from alibi_cli.settings.on_disk import PLUGINS, check_plugins


def load_plugins(files: Iterable[Path] = (), say: Say = lambda _: None) -> None:
    """Loads installed plug-ins and these files. say: is told of an installed one that fails, which is skipped.

    Raises:
        UsageError: one of the files cannot be loaded; it was asked for, and without it something else would be done.
    """
    from alibi_cli.runtime import alibi_plugin

    loaded = {module.__name__ for module in alibi_plugin.MODULES}
    for point in entry_points(group=PLUGINS):
        if point.value.partition(":")[0] not in loaded:
            try:
                found = point.load()
                alibi_plugin.MODULES.append(found if isinstance(found, ModuleType) else sys.modules[found.__module__])
            except (Exception, SystemExit) as error:
                package = point.dist.name if point.dist else point.value
                say(f"Plug-in {point.name} of {package} was skipped: {type(error).__name__}: {error}")
    check_plugins(files)
    for path in files:
        try:
            module = _load_file(path)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"`plugin`: {path} cannot be loaded: {reason}.") from None
        if module not in alibi_plugin.MODULES:
            alibi_plugin.MODULES.append(module)


def _load_file(path: Path) -> ModuleType:
    """The module of a file, which is run once in a process.

    Raises:
        UsageError: its name is that of another module, which every `import` would then take it for.
    """
    name, present = path.stem, sys.modules.get(path.stem)
    origin = getattr(present, "__file__", None)
    if present is not None and origin is not None and Path(origin).resolve() == path.resolve():
        return present
    if present is not None or name in sys.stdlib_module_names:
        whose = f"from {origin}" if origin else "of Python"
        raise UsageError(f"`plugin`: {path} has the name of another module, {name} {whose}.", "Rename the file.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
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
