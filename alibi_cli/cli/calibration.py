"""The calibration that `alibi convert --slopes calibrated` runs first."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alibi_cli.cli import output
from alibi_cli.errors import EXIT_USAGE, AlibiError

if TYPE_CHECKING:
    from alibi_cli.checkpoint.learned import Learned
    from alibi_cli.checkpoint.source import Source

ONLY_CALIBRATED = ("calibrate", "calibration_text", "calibration_tokens")


def check_options(context: typer.Context, chosen: dict[str, Any]) -> None:
    """
    Raises:
        AlibiError: an option that means nothing with the chosen slopes was given.
    """
    calibrated = chosen["slopes"] == "calibrated"
    if calibrated and chosen["max_bias"] is not None:
        raise AlibiError(
            "--max-bias shapes Press's slopes; it cannot be combined with calibrated ones.", exit_code=EXIT_USAGE
        )
    given = [name for name in ONLY_CALIBRATED if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"]
    if given and not calibrated:
        raise AlibiError(f"--{given[0].replace('_', '-')} needs --slopes calibrated.", exit_code=EXIT_USAGE)


def planned(source: "Source", method: str) -> "Learned":
    """What a calibration is going to write, without its numbers."""
    from alibi_cli.calibration.checkpoint import planned

    return planned(source, method)


def run(source: "Source", chosen: dict[str, Any], files: list[Path]) -> "Learned":
    """Calibrates with a progress bar that shows the loss."""
    from alibi_cli.calibration.checkpoint import calibrate_source
    from alibi_cli.evaluation.text import Text, open_text

    name, documents = open_text(files=files, training=True)
    text = Text(name if files else f"{name}, training documents", list(documents))
    with output.progress() as update:
        return calibrate_source(source, text, chosen["calibrate"], chosen["calibration_tokens"], update)


def facts(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The lines about a calibration in the report of `convert`."""
    if record is None:
        return []
    kl = record["kl_nats_per_token"]
    steps = f"Press's slopes {kl['press']:.3f}, look-back {kl['look_back']:.3f}"
    if record["method"] != "look-back":
        steps += f", {record['method']} {kl['end']:.3f}"
    how_long = f"{record['tokens']:,} tokens of {record['text']['name']} in {record['seconds']:.0f} s"
    return [("calibrated", how_long), ("KL to original", f"{steps} (nats per token, held-out text)")]
