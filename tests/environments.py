"""Fresh virtual environments. Their packages are those that this Python has, linked file by file: the versions of constraints.txt, in
seconds, without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def environment(folder: Path, *packages: str) -> Path:
    """The python of a new virtual environment that has these packages, what they require, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    paths = dict(base=str(folder), platbase=str(folder))
    here, there = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("purelib", vars=paths))
    for package in _with_requirements(packages):
        for file in package.files or ():
            path = Path(package.locate_file(file))
            if path.is_relative_to(here) and path.is_file():  # not commands, which begin with the path of their Python
                _link(path, there / path.relative_to(here))
    return python


def pip(python: Path, *arguments: str) -> None:
    """Runs the pip of this Python for another one, without a network."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _with_requirements(names: tuple[str, ...]) -> Iterator[Distribution]:
    wanted, found = [Requirement(name) for name in names], set()
    while wanted:
        requirement = wanted.pop()
        key = (requirement.name.lower(), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError as error:
            raise RuntimeError(f"{requirement} is not installed here; `make test` installs it") from error
        yield package
        for line in package.requires or ():
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)
