"""Versions of what made a file, for its record."""

import platform
from importlib.metadata import version


def versions(*packages: str) -> dict[str, str]:
    """Of Python, alibi-cli, torch, transformers and other packages."""
    names = ("alibi-cli", "torch", "transformers", *packages)
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
