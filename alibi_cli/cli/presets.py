"""Merging a preset with what was given on the command line."""

from typing import Any

import typer

from alibi_cli.errors import UsageError
from alibi_cli.presets import load_preset


def settings(context: typer.Context, preset: str | None, command: str, given: dict[str, Any]) -> dict[str, Any]:
    """`given`, with the preset's settings in place of options that were left at their default."""
    if preset is None:
        return given
    made_for, _, chosen = load_preset(preset)
    if made_for != command:
        raise UsageError(f"Preset {preset} is for `alibi {made_for}`.")
    at_default = {name for name in given if getattr(context.get_parameter_source(name), "name", "") == "DEFAULT"}
    if "protocol" in given and "protocol" not in at_default:
        chosen = {
            name: value for name, value in chosen.items() if name not in ("targets", "stride")
        }  # of another protocol
    return {**given, **{name: value for name, value in chosen.items() if name in at_default}}
