"""A folder that appears under its name only when it is whole: `DIR.partial` is filled, then renamed to `DIR`."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from alibi_cli.errors import AlibiError, UsageError, explained, first_line
from alibi_cli.files.lock import exclusive

MARKER = ".alibi-unfinished"  # shows that a .partial folder is ours to remove


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """Raises AlibiError if `output` may not be written to: it is in the way of the source, if that is known yet, or is taken and not to be
    replaced."""
    with explained(f"Cannot write {output}"):
        resolved = output.resolve()
        if not resolved.name:
            raise UsageError(f"{output} cannot be an output folder.")
        if source is not None:
            _check_apart(output, source)
        above = next(path for path in resolved.parents if path.exists())
        if not above.is_dir():
            raise UsageError(f"{output} cannot be an output folder: {above} is a file.")
        if output.is_symlink():
            raise UsageError(f"{output} is a link, and is not followed.", hint="Name the folder itself.")
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} exists and is not a folder.")
        if not force:
            _check_free(output)


def _check_apart(output: Path, source: Path) -> None:
    resolved, source_folder = output.resolve(), source.resolve()
    if resolved == source_folder or resolved in source_folder.parents or source_folder in resolved.parents:
        raise UsageError(f"The output {output} and the source {source} overlap.", hint="Choose another output.")


def _check_free(output: Path) -> None:
    if output.exists() and any(output.iterdir()):
        raise UsageError(
            f"{output} exists and is not empty.",
            hint="Choose another folder, or replace it with `force`.",
        )


@contextmanager
def partial_folder(output: Path, replace: bool = True) -> Iterator[Path]:
    """Yields a fresh `DIR.partial`, which takes the name `output` when the block ends and vanishes if it fails.

    replace: False refuses a folder that is in the way; True moves it aside, and removes it when the new one has its name.

    Raises:
        AlibiError: the folder is in the way and not ours, another run is writing it, or a file in it cannot be written.
    """
    output = output.resolve()
    partial = output.with_name(output.name + ".partial")
    with exclusive(output):
        with explained(f"Cannot write {output}"):
            _recover(output)
            if not replace:
                _check_free(output)
            _clear(partial)
        ours = True  # from here on, whenever a signal comes
        try:
            try:
                partial.mkdir()
            except FileExistsError:
                ours = False
                raise
            (partial / MARKER).touch()
            yield partial
            (partial / MARKER).unlink()
            _rename(partial, output)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            where = getattr(error, "filename", None) or partial
            raise AlibiError(f"Cannot write {where}: {reason}.", "Nothing has the final name.") from error
        finally:
            if ours:
                shutil.rmtree(partial, ignore_errors=True)  # has another name by now, unless something failed


def _clear(partial: Path) -> None:
    """Removes the .partial folder that a killed run left."""
    if partial.is_symlink() or partial.exists():
        left = (
            [path.name for path in partial.iterdir()] if not partial.is_symlink() and partial.is_dir() else ["a file"]
        )
        if left and not {MARKER, "alibi.json"} & set(left):
            raise UsageError(
                f"{partial} exists and was not made by an interrupted conversion.",
                hint="Move it away.",
            )
        shutil.rmtree(partial)


def _rename(partial: Path, output: Path) -> None:
    """The new folder takes the name in one step. One that it replaces is moved aside first, and back if that step fails."""
    for path in (*sorted(partial.rglob("*")), partial):
        fsync(path)
    aside = None
    try:
        if output.exists():
            aside = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
            output.rename(aside / output.name)
        partial.rename(output)
    except BaseException:
        _recover(output)
        raise
    fsync(output.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _recover(output: Path) -> None:
    """Ends what a run that was killed while it replaced `output` began: the old folder goes back, or goes if the new one has its name."""
    for aside in list(output.parent.glob(glob.escape(_prefix(output)) + "*")):
        old = aside / output.name
        if old.is_dir() and not (output.exists() and any(output.iterdir())):
            old.replace(output)
        elif old.is_dir() and (output / "alibi.json").is_file():
            shutil.rmtree(old)
        if not any(aside.iterdir()):
            aside.rmdir()


def _prefix(output: Path) -> str:
    return f".{output.name}.replaced-"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name, which becomes `path` when the block ends, on the disk by then, and vanishes if that fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
