"""alibi inspect presets"""

from typing import Annotated

import typer

from alibi_cli.cli import options, output

EXAMPLES = "Examples:\n\n  alibi inspect presets\n\n  alibi inspect presets heal"


def command(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """The named settings for --preset."""
    from alibi_cli.settings.presets import load_preset, preset_file, preset_names

    if name is not None and not json:
        load_preset(name)
        output.print_text(preset_file(name).read_text(encoding="utf-8").rstrip())
        return
    found = {each: load_preset(each) for each in ([name] if name else preset_names())}
    if json:
        output.print_json(
            {
                each: {"command": command, "description": text, "settings": chosen}
                for each, (command, text, chosen) in found.items()
            }
        )
        return
    rows = [[each, f"alibi {command}", text] for each, (command, text, _) in found.items()]
    output.print_table(None, ["preset", "for", "description"], rows)
