"""Writes alibi_cli/__init__.pyi: the public names, for editors and type checkers, which do not see what is imported when it is used.

python scripts/write_stub.py [--check]
"""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generated import bring_up_to_date

import alibi_cli
from alibi_cli.settings.keywords import in_words

STUB = Path(__file__).parent.parent / "alibi_cli" / "__init__.pyi"
HEAD = '''"""Written by scripts/write_stub.py (`make docs`); do not edit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

'''


def render() -> str:
    imports, functions, results = [], [], set()
    for name, home in sorted(vars(alibi_cli)["_HOME"].items()):
        found = getattr(alibi_cli, name)
        if hasattr(found, "__signature__"):
            functions.append(_function(name, found))
            results |= set(_results(found))
        else:
            imports.append(f"from {home} import {name} as {name}\n")
    imports += [f"from {cls.__module__} import {cls.__name__} as {cls.__name__}\n" for cls in results]
    text = HEAD + "".join(sorted(set(imports))) + "\n__version__: str\n\n" + "\n".join(functions)
    return _formatted(text)


def _results(function: Any) -> Iterator[type]:
    """The class that it returns, and that of `progress`."""
    for kind in (inspect.signature(function).return_annotation, alibi_cli.Progress):
        inner = getattr(kind, "__args__", [kind])[0]
        if isinstance(inner, type) and inner.__module__.startswith("alibi_cli"):
            yield inner


def _function(name: str, function: Any) -> str:
    parts: list[str] = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            parts, star = [*parts, "*"], True
        default = "" if parameter.default is inspect.Parameter.empty else " = ..."
        parts.append(f"{parameter.name}: {_type(parameter)}{default}")
    returns = in_words(inspect.signature(function).return_annotation)
    doc = inspect.getdoc(function) or ""
    body = "\n".join(f"    {line}".rstrip() for line in f'"""{doc}\n"""'.splitlines())
    return f"def {name}({', '.join(parts)}) -> {returns}:\n{body}\n"


def _type(parameter: inspect.Parameter) -> str:
    return "Callable[[Progress], None] | None" if parameter.name == "progress" else in_words(parameter.annotation)


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STUB), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    bring_up_to_date(STUB, render())


if __name__ == "__main__":
    main()
