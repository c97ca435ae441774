"""A folder that appears under its name only when it is whole: `DIR.partial` is filled, then renamed to `DIR`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alibi_cli.errors import EXIT_USAGE, AlibiError

MARKER = ".alibi-unfinished"  # shows that a .partial folder is ours to remove


def check_output(output: Path, source: Path, force: bool) -> None:
    """Raises AlibiError if `output` may not be written to: it is in the way of the source, or is taken and not to be replaced."""
    resolved, source_folder = output.resolve(), source.resolve()
    if not resolved.name:
        raise AlibiError(f"{output} cannot be an output folder.", exit_code=EXIT_USAGE)
    if resolved == source_folder or resolved in source_folder.parents or source_folder in resolved.parents:
        raise AlibiError(f"The output {output} and the source {source} overlap.", exit_code=EXIT_USAGE)
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise AlibiError(f"{output} exists and is not a folder.", exit_code=EXIT_USAGE)
    if output.exists() and any(output.iterdir()) and not force:
        raise AlibiError(
            f"{output} exists and is not empty.",
            hint="Choose another folder, or replace it with --force.",
            exit_code=EXIT_USAGE,
        )


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Yields a fresh `DIR.partial`, which takes the name `output` when the block ends and vanishes if it fails.

    Raises:
        AlibiError: the folder is in the way and not ours, or cannot be made.
    """
    output = output.resolve()
    partial = output.with_name(output.name + ".partial")
    _start(partial)
    try:
        yield partial
        (partial / MARKER).unlink()
        _rename(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _start(partial: Path) -> None:
    """A fresh .partial folder, in place of one that an interrupted run left."""
    if partial.exists():
        if not (partial / MARKER).exists() and not (partial / "alibi.json").exists():
            raise AlibiError(
                f"{partial} exists and was not made by an interrupted conversion.",
                hint="Move it away.",
                exit_code=EXIT_USAGE,
            )
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        (partial / MARKER).touch()
    except OSError as error:
        raise AlibiError(f"Cannot write {partial}: {error.strerror}.") from None


def _rename(partial: Path, output: Path) -> None:
    """The new folder takes the name in one step. One that it replaces is moved aside first, and back if that step fails."""
    for path in (*sorted(partial.rglob("*")), partial):
        fsync(path)
    aside = None
    if output.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
        output.rename(aside / output.name)
    try:
        partial.rename(output)
    except BaseException:
        if aside is not None:
            (aside / output.name).rename(output)
            aside.rmdir()
        raise
    fsync(output.parent)
    if aside is not None:
        shutil.rmtree(aside)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
