"""Conversion without the command line, and pictures of folders."""

import hashlib
from pathlib import Path

from alibi_cli.checkpoint.plan import make_plan
from alibi_cli.checkpoint.source import open_source
from alibi_cli.checkpoint.writer import write


def convert(source: Path, output: Path, force: bool = False, check: bool = True, **options):
    return write(make_plan(open_source(str(source)), output, **options), force=force, check=check)


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
