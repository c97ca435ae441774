"""Writing figures."""

from pathlib import Path
from typing import Any

from alibi_cli.errors import AlibiError, UsageError, first_line

ENDINGS = (".png", ".svg", ".pdf")


def check_figure(path: Path, setting: str) -> None:
    """
    Raises:
        UsageError: a figure that could not be written after the work.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"`{setting}`: {path} must end in .png, .svg or .pdf.")
    if not path.parent.is_dir() or path.is_dir():
        reason = "it is a folder" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"`{setting}`: {path} cannot be written: {reason}.")


def write_figure(figure: Any, path: Path, dpi: int = 150) -> None:
    """
    Raises:
        AlibiError: it cannot be written.
    """
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise AlibiError(f"Cannot write {path}: {error.strerror or first_line(error)}.") from None
    except ValueError as error:  # an ending, or a size, that matplotlib does not know
        raise UsageError(f"Cannot draw {path}: {first_line(error)}") from None
