"""alibi verify"""

import typer

from alibi_cli.cli import options, output
from alibi_cli.errors import EXIT_FAILED
from alibi_cli.settings.looking import VerifySettings

EXAMPLES = "Example:\n\n  alibi verify gpt2-alibi"


@options.takes(VerifySettings, light=True)
def command(settings: VerifySettings, json: options.Json = False) -> None:
    """Check that a converted checkpoint is still what was written: digests, runtime files, index and slopes. Loads and runs nothing."""
    from alibi_cli.conversion.verify import verify

    with output.progress() as watch:
        found = verify(settings.folder, progress=watch)
    if json:
        output.print_json(found)
    else:
        rows = [[finding.file, finding.status, finding.detail] for finding in found.findings]
        output.print_table(None, ["file", "status", "detail"], rows)
        good = sum(finding.status == "ok" for finding in found.findings)
        made = f"policy {found.policy}, {found.sinks or 'no'} attention sink{'s' * (found.sinks != 1)}"
        output.note(f"{good} of {len(rows)} files are as alibi-cli {found.written_by} wrote them ({made}).")
    if not found.passed:
        raise typer.Exit(EXIT_FAILED)
