"""The package gguf, an extra, reads and writes the files that llama.cpp runs."""

from typing import Any

from alibi_cli.errors import UsageError

INSTALL = "pip install 'alibi-cli[gguf]'"


def gguf_package() -> Any:
    """
    Raises:
        AlibiError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF files are written by the package gguf, which is not installed.", INSTALL) from None
    return gguf
