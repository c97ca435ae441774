"""Figures as a journal takes them: their fonts, and their files."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from alibi_cli.errors import AlibiError, UsageError, first_line

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ENDINGS = (".png", ".svg", ".pdf")
# A serif font that comes with matplotlib, so that figures look alike on every machine; the second has what the first has not.
# Type 42: PDFs embed fonts as TrueType, because submission systems refuse matplotlib's default, Type 3.
STYLE = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def for_print(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorator of a function that draws: in `STYLE`, whatever the user's own matplotlib settings are."""

    @wraps(draw)
    def drawn(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        from matplotlib.style import context

        with context(["default", STYLE]):
            return draw(*arguments, **options)

    return drawn


def as_it_is(text: str) -> str:
    """A text that matplotlib shows unchanged: a $ would start a formula, a leading _ would hide a line from the legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def check_figure(path: Path) -> None:
    """
    Raises:
        UsageError: a figure that could not be written after the work.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path} must end in .png, .svg or .pdf.")
    if not path.parent.is_dir() or path.is_dir():
        reason = "it is a folder" if path.is_dir() else "its folder does not exist"
        raise UsageError(f"{path} cannot be written: {reason}.")


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
