"""alibi env"""

from alibi_cli.cli import options, output

EXAMPLES = "Examples:\n\n  alibi env\n\n  alibi env --json"


def command(json: options.Json = False) -> None:
    """Print versions, devices, paths and settings as a Markdown table, for a bug report. Tokens are not shown."""
    from alibi_cli.environment import inspect_environment

    found = inspect_environment()
    if json:
        output.print_json(found)
    else:
        output.print_text(found.markdown())
