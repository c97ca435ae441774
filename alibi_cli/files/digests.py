"""Which file is this, and is it still the same?"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from alibi_cli.errors import AlibiError, explained
from alibi_cli.files.copying import sha256_of

# What makes a checkpoint another model.
WEIGHTS = ("config.json", "*.safetensors", "pytorch_model*.bin")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "merges.txt", "*.model")


class Stamp(NamedTuple):
    """What changes when a file is written to or replaced."""

    size: int
    modified_ns: int
    inode: int


def stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    found = {}
    for path in files:
        with explained(f"Cannot read {path}"):
            facts = path.stat()
        found[path] = Stamp(facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found


def checked_sha256(path: Path) -> str:
    """sha256 of a file. The Hub's cache keeps large files under theirs, and links to them, so there it can be checked.

    Raises:
        AlibiError: such a file does not have the digest that its name says: its download was damaged, or it was changed.
    """
    found, name = sha256_of(path), path.resolve().name
    if path.is_symlink() and len(name) == 64 and found != name:
        raise AlibiError(
            f"{path} is damaged: it is not the file that was to be downloaded.",
            hint=f"Delete {path.resolve()} and run again.",
        )
    return found


def digest_of_model(folder: Path) -> str:
    """sha256 over config, tokenizer and weights of a checkpoint."""
    return digest_of(folder, (*TOKENIZER, *WEIGHTS))


def digest_of(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over names and contents of the files that a folder has of these."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{checked_sha256(path)}\0".encode())
    return digest.hexdigest()
