"""Calibration of a checkpoint on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from alibi_cli.calibration.calibrate import announcement, estimate, learn, press_grid, state_key
from alibi_cli.calibration.feed import lengths_of, range_of
from alibi_cli.calibration.learned import Learned
from alibi_cli.calibration.state import State
from alibi_cli.errors import UsageError
from alibi_cli.models.families import family_of, shows_scores
from alibi_cli.models.language_model import language_model
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.models.source import Source
from alibi_cli.progress import Say, Update
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.conversion import CalibrateSettings, PlanSettings
from alibi_cli.text.documents import DEFAULT, Text
from alibi_cli.time_left import announcing


def check_source(source: Source, settings: CalibrateSettings) -> None:
    """
    Raises:
        AlibiError: a checkpoint that cannot be calibrated so; no weight is read.
    """
    settings.check_method()
    config = source.config
    if config.is_encoder_decoder:
        raise UsageError(f"A {config.model_type} is an encoder-decoder; calibration reads one text.")
    if settings.grid is not None:
        press_grid(config)  # refuses families that no GGUF file can hold
    if settings.policy != DEFAULT_POLICY and not shows_scores(family_of(config.model_type), settings.policy):
        raise UsageError(
            f"The attention of a {config.model_type} does not show its queries and keys, from which slopes of an added bias are found.",
            hint="Give slopes with `slopes=FILE`, or take `policy=replace`.",
        )
    if source.trained_length is None:
        raise UsageError(f"The config of {source.name} names no length to calibrate at.")
    lengths_of(settings, source.trained_length)


def planned_calibration(source: Source, settings: PlanSettings) -> dict[str, Any]:
    """What a calibration is going to take; the fields of `PlannedCalibration`.

    Raises:
        AlibiError: a checkpoint that is no language model.
    """
    trained = source.trained_length or 0
    found = language_model(source.name, source.folder, source.commit, source.raw_config)
    return {
        "method": settings.method,
        **estimate(_bytes_in_float32(source, found.stored_dtype), source.config, settings, trained),
        "lengths": list(lengths_of(settings, trained)),
        "range": range_of(settings, trained),
        "offset": settings.offset,
        "text": [path.name for path in settings.calibration_text] or [DEFAULT],
    }


def _bytes_in_float32(source: Source, stored_dtype: str) -> int:
    return source.weight_bytes * 4 // {"bfloat16": 2, "float16": 2}.get(stored_dtype, 4)


def calibrate_source(
    source: Source,
    text: Text,
    settings: CalibrateSettings,
    update: Update = lambda *_: None,
    say: Say = lambda _: None,
    folder: Path | None = None,
) -> Learned:
    """Loads the original once and calibrates it. say: is told what it is going to take. folder: where an interrupted run is continued
    (layer by layer for reach, step by step for a distillation; a look-back begins again).

    Raises:
        AlibiError: no language model, no tokenizer, too little text, or a loss that is not finite.
    """
    check_source(source, settings)
    trained = source.trained_length or 0
    found = language_model(source.name, source.folder, source.commit, source.raw_config)
    found = replace(found, config=source.config)
    say(announcement(_bytes_in_float32(source, found.stored_dtype), source.config, settings, trained))
    state = State(folder, state_key(settings, source.fingerprint, text))
    if folder is not None and folder.is_dir():
        kept = any(state.load(name) is not None for name in ("distil", "reach"))
        say(f"Continuing {folder}." if kept else f"{folder} is of another calibration and will be overwritten.")
    tokenizer = load_tokenizer(found)
    model = load_model(found)
    return learn(model, tokenizer, text, trained, settings, found.masked, announcing(update, say), state)
