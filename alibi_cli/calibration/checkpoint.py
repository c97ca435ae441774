"""Calibration of a checkpoint on disk."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch

from alibi_cli.calibration.learnable import learned_names
from alibi_cli.calibration.progress import Update, with_time_left
from alibi_cli.calibration.run import CalibrationSettings, estimate, learn, press_grid, scheme, state_key
from alibi_cli.calibration.state import State
from alibi_cli.checkpoint.learned import Learned
from alibi_cli.checkpoint.source import Source
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.models import describe, load_model, load_tokenizer
from alibi_cli.evaluation.text import Text
from alibi_cli.families import check_policy, config_of, family_of, model_class, shows_scores, trained_length
from alibi_cli.runtime.alibi_surgery import DEFAULT_POLICY
from alibi_cli.slopes import get_slopes
from alibi_cli.surgery.apply import apply_alibi


def planned(source: Source, settings: CalibrationSettings) -> Learned:
    """The names of what a calibration is going to write for this checkpoint; slopes and values are not known yet.

    Raises:
        AlibiError: a family that is not converted, or not calibrated.
    """
    config = config_of(source.config, source.name)
    check_policy(config, settings.policy, source.name, settings.sinks or 0)
    if config.is_encoder_decoder:
        raise AlibiError(
            f"A {config.model_type} is an encoder-decoder; calibration reads one text.", exit_code=EXIT_USAGE
        )
    settings.check()
    if settings.grid is not None:
        press_grid(config)  # refuses families that no GGUF file can hold
    if settings.policy != DEFAULT_POLICY and not shows_scores(family_of(config.model_type), settings.policy):
        raise AlibiError(
            f"The attention of a {config.model_type} does not show its queries and keys, from which slopes of an added bias are found.",
            hint="Give slopes with --slopes FILE, or take --policy replace.",
            exit_code=EXIT_USAGE,
        )
    if (trained := trained_length(config)) is not None:
        settings.lengths_of(trained)
    press = get_slopes(config.num_attention_heads)
    added: list[str] = []
    changed: list[str] = []
    meta: dict[str, torch.nn.Parameter] = {}
    if settings.policy == DEFAULT_POLICY:
        with torch.device("meta"):
            model = model_class(config)(copy.deepcopy(config))
            apply_alibi(model, 1, slopes=press, position_vector=True)
        added, changed = learned_names(model, settings.chosen_method)
        meta = dict(model.named_parameters())
    return Learned(
        scheme=scheme(settings),
        slopes=press,
        sinks=settings.wanted_sinks,
        added={name: meta[name] for name in added},
        changed={name: meta[name] for name in changed},
    )


def calibrate_source(
    source: Source,
    text: Text,
    settings: CalibrationSettings,
    update: Update = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
) -> Learned:
    """Loads the original once and calibrates it. say: is told what it is going to take. folder: where an interrupted run is continued.

    Raises:
        AlibiError: no language model, no tokenizer, too little text, or a loss that is not finite.
    """
    info = describe(source.name if source.commit is None else str(source.folder))
    if info.trained_length is None:
        raise AlibiError(f"The config of {source.name} names no length to calibrate at.", exit_code=EXIT_USAGE)
    config = config_of(source.config, source.name)
    width = {"bfloat16": 2, "float16": 2}.get(info.stored_dtype, 4)
    cost = estimate(source.weight_bytes * 4 // width, config, settings, info.trained_length)
    say(
        f"Calibrating by {settings.chosen_method}: about {cost['tokens']:,} tokens in {cost['passes']:,} windows of "
        f"{settings.lengths_of(info.trained_length)[-1]:,}, and {cost['bytes'] / 1e9:.1f} GB of memory."
    )
    state = State(folder, state_key(settings, info.digest, text))
    if folder is not None and folder.is_dir():
        kept = any(state.load(name) is not None for name in ("distil", "reach"))
        say(f"Continuing {folder}." if kept else f"{folder} is of another calibration and will be overwritten.")
    tokenizer = load_tokenizer(info)
    model = load_model(info)
    return learn(model, tokenizer, text, info.trained_length, settings, info.masked, with_time_left(update, say), state)
