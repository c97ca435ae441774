"""alibi verify"""

from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import options, output
from alibi_cli.errors import EXIT_FAILED

EXAMPLES = "Example:\n\n  alibi verify gpt2-alibi"


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A converted checkpoint.", show_default=False)],
    json: options.Json = False,
) -> None:
    """Check that a converted checkpoint is still what was written: digests, runtime files, index and slopes. Loads and runs nothing."""
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    from alibi_cli.checkpoint.audit import audit

    found = audit(folder)
    if json:
        output.print_json(found.model_dump())
    else:
        rows = [[finding.file, finding.status, finding.detail] for finding in found.findings]
        output.print_table(None, ["file", "status", "detail"], rows)
        good = sum(finding.status == "ok" for finding in found.findings)
        output.note(f"{good} of {len(rows)} files are as alibi-cli {found.written_by} wrote them.")
    if not found.passed:
        raise typer.Exit(EXIT_FAILED)
