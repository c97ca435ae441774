"""Settings of report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from alibi_cli.errors import UsageError
from alibi_cli.settings.declaration import Setting, Verb
from alibi_cli.settings.on_disk import check_writable
from alibi_cli.settings.shared import Command


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Verb):
    """What a report shows, and where it goes. results: paths, or what `evaluate`, `evaluate_task`,
    `inspect_heads` and `train` returned."""

    results: Annotated[
        tuple[Any, ...],
        Setting(
            "Results of eval and of task, JSON of inspect heads and of train, and folders of checkpoints; each in any number.",
            argument=True,
            metavar="RESULTS.json|DIR...",
            preset=False,
        ),
    ]
    output: Annotated[
        Path | None,
        Setting(
            "Write one self-contained page there, replacing an earlier one.",
            flags=("--output", "-o"),
            metavar="FILE.html",
            preset=False,
        ),
    ] = None
    card: Annotated[
        Path | None,
        Setting("Put the results into the model card of this converted checkpoint.", metavar="DIR", preset=False),
    ] = None
    baseline: Annotated[
        str | None,
        Setting(
            "Compare all models with this one of the results. Default: what they were compared with when they were measured.",
            metavar="MODEL",
            preset=False,
        ),
    ] = None
    command: Command = ""

    def check(self) -> None:
        super().check()
        if not self.results:
            raise UsageError("`results` names none.")
        if self.output is not None:
            if self.output.suffix not in (".html", ".htm"):
                raise UsageError(f"`output`: {self.output} must end in .html.")
            check_writable("output", self.output)
        if self.card is not None and not (self.card / "alibi.json").is_file():
            raise UsageError(f"`card`: {self.card} is no converted checkpoint: it has no alibi.json.")
