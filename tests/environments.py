"""Fresh virtual environments. Their packages are those that this Python has, linked: the versions of constraints.txt, in a second, without
a network."""

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
        for name in {Path(file).parts[0] for file in package.files or ()} - {
            "..",
            "__pycache__",
        }:  # commands begin with their Python's path
            source = Path(package.locate_file(name))
            if source.parent == here and source.exists() and not (there / name).exists():
                (there / name).symlink_to(source)
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
