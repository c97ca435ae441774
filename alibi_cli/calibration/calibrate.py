"""A calibration from a text to what a conversion writes down."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from alibi_cli.calibration.added import calibrate_added, refine_added
from alibi_cli.calibration.distil import Curve
from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.extrapolation import Beyond
from alibi_cli.calibration.feed import HELD_OUT_TOKENS, REACH_LENGTH, REACH_SHARE, lengths_of, range_of, tokens_of
from alibi_cli.calibration.grid import on_grid
from alibi_cli.calibration.learnable import slope_bounds
from alibi_cli.calibration.learned import Learned
from alibi_cli.calibration.reach import EPSILON, FAMILIAR_EPSILON
from alibi_cli.calibration.replaced import Grid, calibrate_replaced
from alibi_cli.calibration.smallest_slopes import STEEPEST, gentlest_slope
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import layer_lists
from alibi_cli.calibration.windows import Parts, make_windows
from alibi_cli.errors import UsageError
from alibi_cli.exporting.obstacles import family_of_export
from alibi_cli.exporting.tensors import Dimensions
from alibi_cli.models.families import family_of, sink_distance
from alibi_cli.models.language_model import evaluating, in_memory
from alibi_cli.models.loading import load_tokenizer
from alibi_cli.progress import Update, Watch, notes, steps
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.conversion import CalibrateSettings
from alibi_cli.settings.declaration import declared
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.presets import settings_of
from alibi_cli.surgery.kinds_of_rotation import depends_on_length
from alibi_cli.text.documents import Text, as_text
from alibi_cli.time_left import announcing
from alibi_cli.version import __version__


@takes_settings(CalibrateSettings)
def calibrate(
    model: PreTrainedModel,
    text: Any = None,
    *,
    tokenizer: Any = None,
    trained_length: int | None = None,
    progress: Watch | None = None,
    **settings: Any,
) -> Learned:
    """Finds slopes for a model in memory, which is not changed; `apply_alibi(model, length, **learned.settings)` applies them.

    Nothing is kept of a run that is interrupted; that of `convert` is continued.

    Args:
        text: what to calibrate on: strings, or (name, string) pairs; the embedded text by default.
        tokenizer: the model's; by default that of the folder or Hub repository that it was loaded from.
        trained_length: tokens that the model was trained for, if its config does not say it.
        progress: is called with each `Progress`, first with what the calibration is going to take.
        settings: see `CalibrateSettings`.

    Raises:
        AlibiError: settings that do not fit, too little text, or a loss that is not finite.
    """
    chosen = settings_of(CalibrateSettings, settings)
    info = in_memory(model, tokenizer)
    length = trained_length or info.trained_length
    if length is None:
        raise UsageError("The config of the model names no length to calibrate at.", "Give `trained_length`.")
    say = notes(progress)
    say(announcement(sum(each.nbytes for each in model.parameters()), model.config, chosen, length))
    update = announcing(steps(progress), say)
    with evaluating(model):
        return learn(model, load_tokenizer(info), as_text(text, training=True), length, chosen, info.masked, update)


def learn(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Text,
    trained_length: int,
    settings: CalibrateSettings,
    masked: bool = False,
    update: Update = lambda *_: None,
    state: State = NOWHERE,
) -> Learned:
    """Calibrates `model`, which is not changed, on a text.

    Raises:
        AlibiError: too little text, settings that do not fit, or a loss that is not finite.
    """
    settings.check()
    settings.check_length(settings.length_for(trained_length))
    if model.config.is_encoder_decoder:
        raise UsageError(f"A {model.config.model_type} is an encoder-decoder; calibration reads one text.")
    update("Reading the text", 0, 1)
    if settings.policy == DEFAULT_POLICY:
        return _learn_replaced(model, tokenizer, text, trained_length, settings, masked, update, state)
    return _learn_added(model, tokenizer, text, trained_length, settings, masked, update, state)


def press_grid(config: Any) -> Grid:
    """Slopes -> the nearest that a GGUF file of this model can hold, and their max_bias.

    Raises:
        AlibiError: no GGUF architecture has the family's block.
    """
    architecture = family_of_export(family_of(config.model_type)).architecture
    groups = Dimensions.of(config).groups
    return lambda slopes: on_grid(slopes, groups, architecture.max_bias)


def _learn_replaced(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Text,
    trained_length: int,
    settings: CalibrateSettings,
    masked: bool,
    update: Update,
    state: State,
) -> Learned:
    (length,), n_tokens = lengths_of(settings, trained_length), tokens_of(settings)
    everything = make_windows(
        text, tokenizer, length, n_tokens + 2 * max(HELD_OUT_TOKENS, length), masked, settings.seed
    )
    parts = Parts.of(everything, n_tokens)
    grid = None if settings.grid is None else press_grid(model.config)
    found = calibrate_replaced(model, parts, settings.method, update, settings.wanted_sinks, state, grid)
    learnable = found.learnable
    return Learned(
        scheme=settings.scheme,
        slopes=layer_lists(found.slopes, model),
        sinks=found.sinks,
        added={name: tensor.detach().cpu() for name, tensor in learnable.added.items()},
        changed={name: tensor.detach().cpu() for name, tensor in learnable.changed.items()},
        record={
            **_facts(settings, parts.learned_from.text, found.sinks, found.curve, found.seconds),
            "window": length,
            "tokens": found.curve.kl[-1][0] if found.curve else parts.learned_from.n_tokens,
            "chosen_by_tokens": parts.chosen_by.n_tokens,
            "reported_on_tokens": parts.reported_on.n_tokens,
            "slope_bounds": [learnable.gentlest, learnable.steepest],
            "kl_nats_per_token": {
                "press": found.start,
                "look_back": found.look_back,
                "end": found.end,
                **found.grid_kl,
            },
            **({"max_bias": found.max_bias} if found.max_bias is not None else {}),
            "heads_of_the_original": found.heads.as_json(),
        },
    )


def _learn_added(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Text,
    trained_length: int,
    settings: CalibrateSettings,
    masked: bool,
    update: Update,
    state: State,
) -> Learned:
    reach, lengths, n_tokens = (
        range_of(settings, trained_length),
        lengths_of(settings, trained_length),
        tokens_of(settings),
    )
    longest, distils = lengths[-1], settings.method != "reach"
    first = min(longest, int(REACH_LENGTH * reach)) if distils else longest
    # The tokens of a step that lie within the range come out of the same windows.
    wanted = n_tokens + 2 * max(HELD_OUT_TOKENS, longest) if distils else max(n_tokens, first)
    everything = make_windows(text, tokenizer, longest, wanted, masked, settings.seed, whole=True)
    parts = Parts.of(everything, n_tokens) if distils else None
    learned_from = parts.learned_from if parts else everything
    n_first = max(1, (n_tokens // REACH_SHARE if distils else n_tokens) // first)
    windows = learned_from.split(n_first)[0].of_length(first, first)
    epsilon = EPSILON if reach == trained_length else FAMILIAR_EPSILON
    # At another length, such a rotation is another one: its scores there cannot be extrapolated.
    extrapolates = depends_on_length(model.config) is None
    beyond = Beyond(trained_length, settings.length_for(trained_length)) if extrapolates else None
    up_to = max(longest, beyond.length) if beyond and not distils else longest
    found = calibrate_added(
        model, windows, reach, settings.policy, settings.sinks, settings.offset, epsilon, update, state, beyond
    )
    fed = windows.n_tokens
    if parts is not None:
        found = refine_added(model, found, parts, reach, lengths, n_tokens - fed, settings.policy, update, state)
        fed += found.curve.kl[-1][0] if found.curve and found.curve.kl else 0
    offsets = None if found.offsets is None else layer_lists(found.offsets, model)
    return Learned(
        scheme=settings.scheme,
        slopes=layer_lists(found.slopes, model),
        offsets=offsets,
        sinks=found.sinks,
        sink_distance=sink_distance(model.config, settings.policy, found.sinks),
        record={
            **_facts(settings, everything.text, found.sinks, found.curve, found.seconds),
            "range": reach,
            "lengths": list(lengths),
            "up_to": up_to,
            "tokens": fed,
            "chosen_by_tokens": parts.chosen_by.n_tokens if parts else 0,
            "reported_on_tokens": parts.reported_on.n_tokens if parts else 0,
            "epsilon": epsilon,
            "slope_bounds": list(slope_bounds(reach) if distils else (gentlest_slope(reach, epsilon), STEEPEST)),
            "kl_nats_per_token": found.kl,
        },
    )


def _facts(
    settings: CalibrateSettings, text: dict[str, Any], sinks: int, curve: Curve | None, seconds: float
) -> dict[str, Any]:
    return {
        "method": settings.method,
        "policy": settings.policy,
        "settings": facts_of(settings),
        "text": text,
        "sinks": sinks,
        "seed": settings.seed,
        "seconds": round(seconds, 1),
        "kl_curve": [] if curve is None else curve.kl,
        "kl_curve_held_out": [] if curve is None else curve.held_out,
        "stopped_early": curve is not None and curve.stopped_early,
    }


def facts_of(settings: CalibrateSettings) -> dict[str, Any]:
    """What a calibration depends on, of the settings of whatever it is part of."""
    # Where positions are replaced, nothing depends on the length that is declared.
    without = {"max_sequence_length"} if settings.policy == DEFAULT_POLICY else set()
    return {each.name: getattr(settings, each.name) for each in declared(CalibrateSettings) if each.name not in without}


def estimate(model_bytes: int, config: Any, settings: CalibrateSettings, trained_length: int) -> dict[str, int]:
    """{"tokens": that are fed, "passes": of one window, "bytes": of memory} before anything is loaded; in float32, within a factor of two.

    A pass with a gradient keeps some forty numbers of the model's width per token and layer; one without keeps those of one layer.
    """
    longest = lengths_of(settings, trained_length)[-1]
    distils, n_tokens = settings.method.startswith("distil"), max(tokens_of(settings), longest)
    layers = config.num_hidden_layers if distils else 1
    # Reach feeds all windows to one layer after the other.
    at_once = max(longest, n_tokens if settings.method == "reach" else TOKENS_PER_BATCH)
    numbers = 40 * at_once * config.hidden_size * layers
    passes = n_tokens // longest
    tokens = n_tokens if distils else passes * longest  # a distillation feeds shorter windows too
    return {"tokens": tokens, "passes": passes, "bytes": model_bytes + 4 * numbers}


def announcement(model_bytes: int, config: Any, settings: CalibrateSettings, trained_length: int) -> str:
    """What a calibration is going to take, in a sentence."""
    cost, longest = estimate(model_bytes, config, settings, trained_length), lengths_of(settings, trained_length)[-1]
    windows = f"{cost['passes']:,} window{'s' * (cost['passes'] != 1)} of {longest:,}"
    return f"Calibrating by {settings.method}: about {cost['tokens']:,} tokens in {windows}, and {cost['bytes'] / 1e9:.1f} GB of memory."


def state_key(settings: CalibrateSettings, source_digest: str, text: Text) -> str:
    """What two runs must share for one to continue the other."""
    programs = torch.__version__, transformers.__version__, __version__
    return "|".join([*map(str, facts_of(settings).items()), source_digest, text.sha256, *programs])
