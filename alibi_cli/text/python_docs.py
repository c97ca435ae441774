"""The embedded text: documentation and sources that every CPython carries, so nothing is downloaded or copied.

A document is one help topic, one standard library module, or the docstrings of one built-in module. A document belongs to the
held-out tenth or to the training text by a hash of its *name*, so the split is the same on every machine even where the
text differs between Python versions (the fingerprint of the text says which one was used).
"""

import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

HELD_OUT_ONE_IN = 10
# Left out: tests, vendored or generated trees, code tables, and what distributions package separately.
EXCLUDED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "ensurepip",
        "turtledemo",
        "tkinter",
        "encodings",
        "pydoc_data",
    ]
)


def is_held_out(name: str) -> bool:
    """True for the documents that the demonstration checkpoints never saw in training."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def documents(held_out: bool) -> Iterator[tuple[str, str]]:
    """Yields (name, text) for one side of the split, in a fixed order."""
    for source in (_topics, _sources, _docstrings):
        for name, text in source():
            if text.strip() and is_held_out(name) == held_out:
                yield name, text


def _topics() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topics/{topic}", topics[topic]


def held_out_sizes() -> list[int]:
    """Bytes of the held-out library modules, which are the long documents; nothing is read."""
    sizes = [path.stat().st_size for path, name in _modules() if is_held_out(name)]
    return [size for size in sizes if size]


def _sources() -> Iterator[tuple[str, str]]:
    for path, name in _modules():
        with tokenize.open(path) as file:  # honours the coding line
            yield name, file.read()


def _modules() -> list[tuple[Path, str]]:
    """Path and name of every module of the standard library that is a document, in order."""
    root = sysconfig.get_path("stdlib")
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS and not name.startswith("config-")]
        place = Path(folder).relative_to(root).parts
        found += [(*place, name) for name in files if name.endswith(".py")]
    machine_specific = ("_sysconfigdata", "sitecustomize")
    return [
        (Path(root, *parts), "stdlib/" + "/".join(parts))
        for parts in sorted(found)
        if not parts[-1].startswith(machine_specific)
    ]


def _docstrings() -> Iterator[tuple[str, str]]:
    """Docstrings of the modules that are compiled into the interpreter and therefore have no source file."""
    for name in sorted(sys.builtin_module_names):
        yield f"docstrings/{name}", "\n\n".join(_docs_of(importlib.import_module(name)))


def _docs_of(module: ModuleType) -> Iterator[str]:
    for name, member in [(module.__name__, module), *sorted(vars(module).items(), key=lambda item: item[0])]:
        if name.startswith("_") and member is not module:
            continue
        if member is not module and not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        documented = [(name, member)]
        if inspect.isclass(member):
            documented += [(f"{name}.{k}", v) for k, v in sorted(vars(member).items()) if not k.startswith("_")]
        for qualified, item in documented:
            doc = getattr(item, "__doc__", None)
            if isinstance(doc, str) and doc.strip():
                yield f"{qualified}\n{inspect.cleandoc(doc)}"
