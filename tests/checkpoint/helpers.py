"""Plans and conversions without the command line, and pictures of folders."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alibi_cli.conversion.plan import Plan, make_plan
from alibi_cli.conversion.writer import write
from alibi_cli.models.source import open_source
from alibi_cli.progress import Progress, Watch
from alibi_cli.settings.conversion import PlanSettings
from alibi_cli.settings.presets import settings_of


def plan_of(source: Path | str, output: Path, **settings: Any) -> Plan:
    chosen = settings_of(PlanSettings, {"model": str(source), **settings})
    return make_plan(open_source(str(source)), output, chosen)


def convert(source: Path | str, output: Path, force: bool = False, check: bool = True, **settings: Any):
    return write(plan_of(source, output, **settings), force=force, check=check)


def at_stage(stage: str, act: Callable[[], object]) -> Watch:
    """Acts once, when the stage begins."""
    done: list[str] = []

    def watch(step: Progress) -> None:
        if step.what == stage and not done:
            done.append(stage)
            act()

    return watch


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
