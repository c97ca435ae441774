"""alibi inspect plan"""

from alibi_cli.cli import options, output
from alibi_cli.cli.convert_command import print_plan
from alibi_cli.settings.conversion import PlanSettings

EXAMPLES = "Example:\n\n  alibi inspect plan gpt2"


@options.takes(PlanSettings)
def command(settings: PlanSettings, preset: options.Preset = None, json: options.Json = False) -> None:
    """What `alibi convert` would do, the same as its --dry-run."""
    from alibi_cli.conversion.convert import run_plan

    with output.progress() as watch:
        found = run_plan(settings, watch)
    print_plan(found, json)
