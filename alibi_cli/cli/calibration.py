"""The calibration that `alibi convert --slopes calibrated` runs first."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alibi_cli.cli import output
from alibi_cli.errors import EXIT_USAGE, AlibiError

if TYPE_CHECKING:
    from alibi_cli.calibration.run import CalibrationSettings
    from alibi_cli.checkpoint.learned import Learned
    from alibi_cli.checkpoint.source import Source

ONLY_CALIBRATED = ("calibrate", "calibration_tokens", "calibration_length", "horizon", "grid")


def check_options(chosen: dict[str, Any], calibration_text: list[Path]) -> None:
    """
    Raises:
        AlibiError: an option that means nothing with the chosen slopes was given.
    """
    calibrated = chosen["slopes"] == "calibrated"
    if calibrated and chosen["max_bias"] is not None:
        raise AlibiError(
            "--max-bias shapes Press's slopes; it cannot be combined with calibrated ones.", exit_code=EXIT_USAGE
        )
    given = [name for name in ONLY_CALIBRATED if chosen[name] is not None]
    given += ["calibration_text"] if calibration_text else []
    if given and not calibrated:
        raise AlibiError(f"--{given[0].replace('_', '-')} needs --slopes calibrated.", exit_code=EXIT_USAGE)


def _settings(chosen: dict[str, Any]) -> "CalibrationSettings":
    from alibi_cli.calibration.run import CalibrationSettings

    return CalibrationSettings(
        policy=chosen["policy"],
        method=chosen["calibrate"],
        sinks=chosen["sinks"],
        offset=chosen["offset"],
        n_tokens=chosen["calibration_tokens"],
        length=chosen["calibration_length"],
        horizon=chosen["horizon"],
        grid=chosen["grid"],
    )


def planned(source: "Source", chosen: dict[str, Any]) -> "Learned":
    """What a calibration is going to write, without its numbers."""
    from alibi_cli.calibration.checkpoint import planned

    return planned(source, _settings(chosen))


def run(source: "Source", target: Path, chosen: dict[str, Any], files: list[Path]) -> "Learned":
    """Calibrates with a progress bar that shows the loss."""
    from alibi_cli.calibration.checkpoint import calibrate_source
    from alibi_cli.evaluation.text import Text, open_text

    name, documents = open_text(files=files, training=True)
    text = Text(name if files else f"{name}, training documents", list(documents))
    with output.progress() as update:
        return calibrate_source(source, text, _settings(chosen), update, output.note, _folder(target))


def _folder(target: Path) -> Path:
    """Where an interrupted calibration is continued."""
    return target.with_name(f"{target.name}.calibration")


def forget(target: Path) -> None:
    """The calibrated checkpoint is written: nothing is left to continue."""
    if _folder(target).is_dir():
        from alibi_cli.calibration.state import State

        State(_folder(target)).clear()


def summary(slopes: list[Any], offsets: list[Any] | None) -> str:
    """The range of slopes, and where the bias begins."""
    flat = [each for row in slopes for each in (row if isinstance(row, list) else [row])]
    text = f": {min(flat):.2g} to {max(flat):.2g}, median {statistics.median(flat):.2g}"
    if offsets is not None:
        starts = [each for row in offsets for each in (row if isinstance(row, list) else [row])]
        text += f", from a distance of {statistics.median(starts):,.0f} tokens on"
    return text


def sinks_in_words(n: int) -> str:
    """How many attention sinks there are."""
    return f"the first {n} tokens of a document" if n else "none"


def facts(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The lines about a calibration in the report of `convert`."""
    if record is None:
        return []
    found = [("calibrated", f"{record['tokens']:,} tokens of {record['text']['name']} in {record['seconds']:.0f} s")]
    kl = record["kl_nats_per_token"]
    if "press" in kl:
        steps = f"Press's slopes {kl['press']:.3f}, look-back {kl['look_back']:.3f}"
        if record["method"] != "look-back":
            steps += f", {record['method']} {kl['end']:.3f}"
        if "grid" in kl:
            steps += f", on Press's grid (max_bias {record['max_bias']:.3g}) {kl['grid']:.3f}"
        found.append(("KL to original", f"{steps} (nats per token, text that had no part in it)"))
    elif kl:
        steps = "; ".join(
            f"at {length:,} {before:.4f}, distilled {kl['end'][length]:.4f}" for length, before in kl["start"].items()
        )
        found.append(("KL to teacher", f"{steps} (nats per token, text that had no part in it)"))
    return found
