"""Versions of what made a file, for its record."""

import platform
from importlib.metadata import version

from alibi_cli.version import __version__


def versions(*packages: str) -> dict[str, str]:
    """Of Python, alibi-cli, torch, transformers and other packages."""
    names = ("torch", "transformers", *packages)
    return {"python": platform.python_version(), "alibi-cli": __version__, **{name: version(name) for name in names}}
