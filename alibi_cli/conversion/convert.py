"""The verbs `convert` and `plan`: from a checkpoint to a converted one, by way of calibration if that is asked for."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from alibi_cli.calibration.of_source import calibrate_source, check_source, planned_calibration
from alibi_cli.calibration.state import State
from alibi_cli.conversion.convert_report import ConvertReport, PlannedCalibration, PlanReport
from alibi_cli.conversion.plan import Plan, make_plan
from alibi_cli.conversion.side_files import brings_code
from alibi_cli.conversion.writer import write
from alibi_cli.evaluation.scoring import budget_of
from alibi_cli.evaluation.suggestion import Suggestion, suggest
from alibi_cli.files.atomic import check_output
from alibi_cli.models.cost import cost_of_shapes
from alibi_cli.models.families import family_of, family_policies, shows_scores
from alibi_cli.models.loading import device_type
from alibi_cli.models.machine import free_memory, speed
from alibi_cli.models.plugins import load_plugins
from alibi_cli.models.source import Source, open_source
from alibi_cli.progress import Watch, notes, steps
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.conversion import ConvertSettings, PlanSettings
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import embedded_or_files, tell


@takes_settings(ConvertSettings)
def convert(
    model: str | Path,
    output: str | Path | None = None,
    *,
    preset: str | None = None,
    progress: Watch | None = None,
    **settings: Any,
) -> ConvertReport:
    """Writes a checkpoint with ALiBi, instead of its positional encoding or beside it, as a checkpoint that transformers can load.

    Args:
        model: a folder, or the name of a Hub repository. It is never changed.
        output: a folder; the model's name + -alibi by default. It gets its name when the result has been verified.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        settings: see `ConvertSettings`.

    Raises:
        UsageError: settings that do not fit, or a family that is not converted. Nothing was done.
        AlibiError: what was read or written is not what it should be. Nothing is left under the final name.
    """
    given = {"model": model, "output": output, **settings}
    return run_convert(settings_of(ConvertSettings, given, preset), progress)


@takes_settings(PlanSettings)
def plan(
    model: str | Path,
    output: str | Path | None = None,
    *,
    preset: str | None = None,
    progress: Watch | None = None,
    **settings: Any,
) -> PlanReport:
    """What `convert` would do. No weight is read and nothing is written.

    Args:
        model, output, preset, progress: as for `convert`.
        settings: see `PlanSettings`.

    Raises:
        AlibiError: as `convert`.
    """
    return run_plan(settings_of(PlanSettings, {"model": model, "output": output, **settings}, preset), progress)


def run_plan(settings: PlanSettings, progress: Watch | None = None) -> PlanReport:
    """`plan`, by settings."""
    source, found = _planned(settings, progress, read_weights=False)
    calibration = planned_calibration(source, settings) if settings.calibrated else None
    return found.report().model_copy(update={"calibration": calibration and PlannedCalibration(**calibration)})


def run_convert(settings: ConvertSettings, progress: Watch | None = None) -> ConvertReport:
    """`convert`, by settings."""
    source, found = _planned(settings, progress, read_weights=True)
    if settings.calibrated:
        check_output(found.output, source.folder, settings.force)  # before minutes of work, not after
        text = embedded_or_files(settings.calibration_text)
        tell(text.normalised, notes(progress))
        learned = calibrate_source(source, text, settings, steps(progress), notes(progress), _unfinished(found.output))
        found = found.completed(learned)
    report = write(
        found,
        force=settings.force,
        link=settings.link,
        check=settings.verify,
        command=settings.command,
        progress=progress,
    )
    if settings.calibrated:
        State(_unfinished(found.output)).clear()
    return report.model_copy(update={"better": _better(found), "suggestion": _suggestion(found)})


def _planned(settings: PlanSettings, progress: Watch | None, read_weights: bool) -> tuple[Source, Plan]:
    load_plugins(settings.plugin, notes(progress))
    source = open_source(settings.model, settings.revision, read_weights)
    found = make_plan(source, settings.target, settings)
    if settings.calibrated:
        check_source(source, settings)
    if brings_code(source):
        notes(progress)(
            f"{source.name} brings Python code of its own, which was neither run nor copied: it is converted as transformers' own "
            f"{source.config.model_type}."
        )
    return source, found


def _better(plan: Plan) -> dict[str, str] | None:
    """What would keep more of the quality than Press's slopes in place of the positions of a model that was trained with them."""
    if plan.policy != DEFAULT_POLICY or not plan.slopes_scheme.startswith("press") or "own_bias" in plan.mechanism:
        return None
    family = family_of(plan.family)
    calibrated = not plan.source.config.is_encoder_decoder
    kept = family in family_policies("add") and not (calibrated and not shows_scores(family, "add"))
    return ({"policy": "add"} if kept else {}) | ({"slopes": "calibrated"} if calibrated else {})


def _suggestion(plan: Plan) -> Suggestion | None:
    """How to measure the result here; None for what `evaluate` cannot score."""
    config = plan.source.config
    if plan.auto_class not in ("AutoModelForCausalLM", "AutoModelForMaskedLM") or not plan.source.has_tokenizer:
        return None
    shapes = ((name, info.shape) for name, (_, info) in plan.source.tensors.items())
    cost, device = cost_of_shapes(config, shapes), device_type("auto")
    found = suggest(
        cost,
        config.get_text_config().vocab_size,
        plan.trained_length or plan.max_sequence_length,
        plan.max_sequence_length,
        free_memory("auto"),
        cache(lambda: speed(device, torch.float32, budget_of(device), cost.width)),
    )
    if found is not None and plan.auto_class == "AutoModelForCausalLM" and found.lengths[-1] > plan.trained_length:
        found.arms = plan.to_beat
    return found


def kept(output: Path) -> str | None:
    """What an interrupted conversion to `output` has left, and how to go on."""
    folder = _unfinished(output)
    return f"What was calibrated is in {folder}; the same command continues from there." if folder.is_dir() else None


def _unfinished(output: Path) -> Path:
    """Where an interrupted calibration is continued."""
    output = output.resolve()  # which may be "."
    return output.with_name(f"{output.name}.calibration")
