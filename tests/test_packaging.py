"""What is installed is what is imported."""

import ast
import re
import sys
from pathlib import Path

import tomllib

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
NAMES = {"yaml": "pyyaml", "xllamacpp": "xllamacpp"}  # import name: distribution
FOR_TYPE_CHECKERS = {"jaxtyping"}  # test_wheel.py runs the package without it
EXTRAS = {"gguf", "xllamacpp", "pandas", "vllm"}  # asked for where they are used, with a message


def imported(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"alibi_cli"}


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    declared = {re.split(r"[<>=!~\[ ]", line)[0] for line in PROJECT["project"]["dependencies"]}
    used = {NAMES.get(name, name) for name in imported(REPOSITORY / "alibi_cli")}
    # What a declared package is made of: typer is click, pydantic comes with its own, datasets brings pandas.
    undeclared = used - declared - EXTRAS - FOR_TYPE_CHECKERS - {"click"}
    assert not undeclared
    assert {"huggingface_hub", "tokenizers"} <= used  # the control: these were imported and not declared


def test_what_editors_need_is_in_the_package() -> None:
    assert (REPOSITORY / "alibi_cli" / "py.typed").is_file() and (REPOSITORY / "alibi_cli" / "__init__.pyi").is_file()
