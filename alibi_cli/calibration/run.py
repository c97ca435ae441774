"""A calibration from a text to what a conversion writes down."""

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.added import calibrate_added, refine_added
from alibi_cli.calibration.distil import Curve
from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.grid import on_grid
from alibi_cli.calibration.learnable import METHODS, slope_bounds
from alibi_cli.calibration.progress import Update
from alibi_cli.calibration.reach import EPSILON, FAMILIAR_EPSILON, STEEPEST, gentlest_slope
from alibi_cli.calibration.replaced import Grid, calibrate
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import layer_lists
from alibi_cli.calibration.windows import Parts, make_windows
from alibi_cli.checkpoint.learned import Learned
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.text import Text
from alibi_cli.exporting.obstacles import family_of_export
from alibi_cli.exporting.tensors import Dimensions
from alibi_cli.families import family_of
from alibi_cli.runtime.alibi_surgery import DEFAULT_POLICY

TOKENS = {"reach": 1 << 14, "look-back": 1 << 14, "distil": 1 << 18, "distil+norms": 1 << 18}
ADDED_TOKENS = 1 << 16  # for the distillation of an added bias, which begins almost at its end
HELD_OUT_TOKENS = 1 << 13  # to choose by, and as many to report on
REACH_LENGTH = 1.5  # of the range: how far beyond it reach looks
LONGEST = 4  # of the range: the longest windows on which an added bias is distilled
REACH_SHARE = 16  # one in so many of a distillation's tokens goes to reach, which comes first


@dataclass(frozen=True)
class CalibrationSettings:
    """What to calibrate, and how.

    policy, sinks: see `apply_alibi`; sinks None: chosen. method: one of METHODS[policy]; None: the first. n_tokens: tokens to learn from,
    a window at least; None: the method's own number. length: tokens of the longest window that is fed; None: 1.5 ranges for reach, 4 for
    the distillation of an added bias, the trained length where positions are replaced. horizon: the range, instead of the trained length.
    offset: tokens up to which an added bias is zero, within the range; None: the range. grid "press": the slopes that replace positions end
    as Press et al.'s, in the order nearest to those that were found, and there are no sinks.
    """

    policy: str = DEFAULT_POLICY
    method: str | None = None
    sinks: int | None = None
    offset: int | None = None
    n_tokens: int | None = None
    length: int | None = None
    horizon: int | None = None
    grid: Literal["press"] | None = None
    seed: int = 0

    @property
    def chosen_method(self) -> str:
        return self.method or methods(self.policy)[0]

    def check(self) -> None:
        """
        Raises:
            AlibiError: settings that do not go together, whatever the model.
        """
        known = methods(self.policy)
        if self.method is not None and self.method not in known:
            message = f"The policy {self.policy} is not calibrated by {self.method}, but by {' or '.join(known)}."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        if self.grid is not None and self.policy != DEFAULT_POLICY:
            message = f"A grid is for slopes that replace positions, which a GGUF file can hold; the policy {self.policy} keeps them."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        if self.grid is not None and self.sinks:
            message = f"A grid is for GGUF files, which cannot hold sinks; {self.sinks} were asked for."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        for name in ("offset", "horizon"):
            if self.policy == DEFAULT_POLICY and getattr(self, name) is not None:
                message = f"{name} is for a bias that is added; the policy {self.policy} is textbook ALiBi."
                raise AlibiError(message, exit_code=EXIT_USAGE)

    @property
    def wanted_sinks(self) -> int | None:
        return 0 if self.grid is not None else self.sinks

    def tokens(self) -> int:
        if self.n_tokens is not None:
            return self.n_tokens
        added = self.policy != DEFAULT_POLICY and self.chosen_method == "distil"
        return ADDED_TOKENS if added else TOKENS[self.chosen_method]

    def range_of(self, trained_length: int) -> int:
        """
        Raises:
            AlibiError: a horizon beyond the trained length, or an offset beyond the range.
        """
        if self.horizon is not None and self.horizon > trained_length:
            message = f"The horizon of {self.horizon} tokens is beyond the trained length, {trained_length}."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        reach = self.horizon or trained_length
        if self.offset is not None and self.offset > reach:
            message = f"An offset of {self.offset} tokens leaves what lies beyond {reach} without a bias."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        return reach

    def lengths_of(self, trained_length: int) -> tuple[int, ...]:
        """Lengths of the windows that are fed, ascending: of the range, its doublings and the longest for the distillation of an added
        bias; one length for others.

        Raises:
            AlibiError: the longest does not reach beyond the range of an added bias, or beyond the trained length where positions are
                replaced.
        """
        reach = self.range_of(trained_length)
        if self.policy == DEFAULT_POLICY:
            if self.length is not None and self.length > reach:
                message = f"Windows of {self.length} tokens are longer than the original was trained for, {reach}."
                raise AlibiError(message, exit_code=EXIT_USAGE)
            return (self.length or reach,)
        only_reach = self.chosen_method == "reach"
        longest = self.length or int((REACH_LENGTH if only_reach else LONGEST) * reach)
        if longest <= reach:
            message = (
                f"Windows of {longest} tokens do not reach beyond {reach}, where an added bias has its work to do."
            )
            raise AlibiError(message, "Take a longer length or a shorter horizon.", EXIT_USAGE)
        if only_reach:
            return (longest,)
        doublings = math.ceil(math.log2(longest / reach))
        return (*(reach << n for n in range(doublings)), longest)


def methods(policy: str) -> tuple[str, ...]:
    return METHODS.get(policy, ("distil",))


def learn(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Text,
    trained_length: int,
    settings: CalibrationSettings,
    masked: bool = False,
    update: Update = lambda *_: None,
    state: State = NOWHERE,
) -> Learned:
    """Calibrates `model`, which is not changed, on a text.

    Raises:
        AlibiError: too little text, settings that do not fit, or a loss that is not finite.
    """
    settings.check()
    if model.config.is_encoder_decoder:
        raise AlibiError(
            f"A {model.config.model_type} is an encoder-decoder; calibration reads one text.", exit_code=EXIT_USAGE
        )
    update("Reading the text", 0, 1)
    if settings.policy == DEFAULT_POLICY:
        return _learn_replaced(model, tokenizer, text, trained_length, settings, masked, update, state)
    return _learn_added(model, tokenizer, text, trained_length, settings, masked, update, state)


def scheme(settings: CalibrationSettings) -> str:
    """How the slopes came about, in words."""
    return f"calibrated, {settings.chosen_method}" + (", on Press's grid" if settings.grid else "")


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
    settings: CalibrationSettings,
    masked: bool,
    update: Update,
    state: State,
) -> Learned:
    (length,), n_tokens = settings.lengths_of(trained_length), settings.tokens()
    everything = make_windows(
        text, tokenizer, length, n_tokens + 2 * max(HELD_OUT_TOKENS, length), masked, settings.seed
    )
    parts = Parts.of(everything, n_tokens)
    grid = None if settings.grid is None else press_grid(model.config)
    found = calibrate(model, parts, settings.chosen_method, update, settings.wanted_sinks, state, grid)
    learnable = found.learnable
    return Learned(
        scheme=scheme(settings),
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
    settings: CalibrationSettings,
    masked: bool,
    update: Update,
    state: State,
) -> Learned:
    reach, lengths, n_tokens = settings.range_of(trained_length), settings.lengths_of(trained_length), settings.tokens()
    longest, distils = lengths[-1], settings.chosen_method != "reach"
    first = min(longest, int(REACH_LENGTH * reach)) if distils else longest
    # The tokens of a step that lie within the range come out of the same windows.
    wanted = n_tokens + 2 * max(HELD_OUT_TOKENS, longest) if distils else max(n_tokens, first)
    everything = make_windows(text, tokenizer, longest, wanted, masked, settings.seed, whole=True)
    parts = Parts.of(everything, n_tokens) if distils else None
    learned_from = parts.learned_from if parts else everything
    n_first = max(1, (n_tokens // REACH_SHARE if distils else n_tokens) // first)
    windows = learned_from.split(n_first)[0].of_length(first, first)
    epsilon = EPSILON if reach == trained_length else FAMILIAR_EPSILON
    found = calibrate_added(
        model, windows, reach, settings.policy, settings.sinks, settings.offset, epsilon, update, state
    )
    fed = windows.n_tokens
    if parts is not None:
        found = refine_added(model, found, parts, reach, lengths, n_tokens - fed, settings.policy, update, state)
        fed += found.curve.kl[-1][0] if found.curve and found.curve.kl else 0
    offsets = None if found.offsets is None else layer_lists(found.offsets, model)
    return Learned(
        scheme=f"calibrated, {settings.chosen_method}",
        slopes=layer_lists(found.slopes, model),
        offsets=offsets,
        sinks=found.sinks,
        record={
            **_facts(settings, everything.text, found.sinks, found.curve, found.seconds),
            "range": reach,
            "lengths": list(lengths),
            "tokens": fed,
            "chosen_by_tokens": parts.chosen_by.n_tokens if parts else 0,
            "reported_on_tokens": parts.reported_on.n_tokens if parts else 0,
            "epsilon": epsilon,
            "slope_bounds": list(slope_bounds(reach) if distils else (gentlest_slope(reach, epsilon), STEEPEST)),
            "kl_nats_per_token": found.kl,
        },
    )


def _facts(
    settings: CalibrationSettings, text: dict[str, str | int], sinks: int, curve: Curve | None, seconds: float
) -> dict[str, Any]:
    return {
        "method": settings.chosen_method,
        "policy": settings.policy,
        "settings": asdict(settings),
        "text": text,
        "sinks": sinks,
        "seed": settings.seed,
        "seconds": round(seconds, 1),
        "kl_curve": [] if curve is None else curve.kl,
        "kl_curve_held_out": [] if curve is None else curve.held_out,
        "stopped_early": curve is not None and curve.stopped_early,
    }


def estimate(model_bytes: int, config: Any, settings: CalibrationSettings, trained_length: int) -> dict[str, int]:
    """{"tokens": that are fed, "passes": of one window, "bytes": of memory} before anything is loaded; in float32, within a factor of two.

    A pass with a gradient keeps some forty numbers of the model's width per token and layer; one without keeps those of one layer.
    """
    longest = settings.lengths_of(trained_length)[-1]
    distils, n_tokens = settings.chosen_method.startswith("distil"), max(settings.tokens(), longest)
    layers = config.num_hidden_layers if distils else 1
    # Reach feeds all windows to one layer after the other.
    at_once = max(longest, n_tokens if settings.chosen_method == "reach" else TOKENS_PER_BATCH)
    numbers = 40 * at_once * config.hidden_size * layers
    return {"tokens": n_tokens, "passes": -(-n_tokens // longest), "bytes": model_bytes + 4 * numbers}


def state_key(settings: CalibrationSettings, source_digest: str, text: Text) -> str:
    """What two runs must share for one to continue the other."""
    parts = [*map(str, asdict(settings).items()), source_digest, text.sha256, torch.__version__, version("alibi-cli")]
    return "|".join(parts)
