"""alibi inspect policies"""

from pathlib import Path

from alibi_cli.cli import options, output
from alibi_cli.settings.looking import PoliciesSettings

EXAMPLES = "Examples:\n\n  alibi inspect policies\n\n  alibi inspect policies --json"


@options.takes(PoliciesSettings)
def command(settings: PoliciesSettings, json: options.Json = False) -> None:
    """The registered policies: which families have which, which module classes each rewrites, how, and where that is written."""
    from alibi_cli.models.policies import run_inspect_policies

    with output.progress() as watch:
        found = run_inspect_policies(settings, watch)
    if json:
        by_family: dict[str, list[dict[str, str]]] = {}
        for each in found:
            by_family.setdefault(each.family, []).append(each.model_dump())
        output.print_json(by_family)
        return
    columns = ["family", "policy", "module class", "function", "origin", "verified against"]
    package = f"{Path(__file__).parent.parent.parent}/"
    rows = [
        list(each.model_copy(update={"origin": each.origin.removeprefix(package)}).model_dump().values())
        for each in found
    ]
    output.print_table(None, columns, rows)
