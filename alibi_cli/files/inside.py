"""A checkpoint folder is read, and nothing around it: links that lead out of it could make a copy of any file of this machine."""

from fnmatch import fnmatch
from pathlib import Path

from alibi_cli.errors import AlibiError

LEFT_BEHIND = (".git/*", ".cache/*", "*__pycache__/*", ".DS_Store")  # never read, never copied


def check_links(folder: Path) -> None:
    """
    Raises:
        AlibiError: a file in the folder is a link that leads out of it.
    """
    root = _root(folder.resolve())
    for path in folder.rglob("*"):  # which does not follow links to folders
        if path.is_symlink() and path.is_file() and not path.resolve().is_relative_to(root):
            if any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in LEFT_BEHIND):
                continue
            raise AlibiError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}; it was not followed.",
                hint="Put the file itself there.",
            )


def check_name(folder: Path, name: str) -> None:
    """
    Raises:
        AlibiError: a name in an index that does not lie in the index's folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise AlibiError(f"The index of {folder} names {name!r}, which lies outside the folder.")


def _root(folder: Path) -> Path:
    """The folder itself, or, in the Hub's cache, that of the repository: a snapshot is made of links to its blobs."""
    for path in (folder, *folder.parents):
        if path.parent.name == "snapshots" and (path.parent.parent / "blobs").is_dir():
            return path.parent.parent
    return folder
