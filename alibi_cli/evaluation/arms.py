"""Arms: what one can have from an unconverted model beyond its trained length without converting it.

truncated       the model is fed the last L tokens, L being its trained length
window          every token sees itself and the L - 1 tokens before it
window+sinks    it sees itself, the L - 5 tokens before it, and the first 4 tokens of the sequence, where they are
streaming       the same, the first 4 as if they stood right before the window: StreamingLLM's positions
linear, dynamic, yarn    transformers' `rope_parameters` of that rope_type, the factor being length / L

`window:N`, `window+sinks:N` and `streaming:N` have N in place of L. Within L (or N) tokens every arm is the
original. docs/arms.md defines them in full.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.evaluation.arm_names import (
    ARMS,
    FULL,
    ROTATIONS,
    STREAMING,
    TRUNCATED,
    WINDOW,
    WINDOW_AND_SINKS,
    WINDOWS,
)
from alibi_cli.evaluation.rotation import SLIDING, no_stretching, stretched
from alibi_cli.evaluation.streaming import no_turning, turning
from alibi_cli.evaluation.window_attention import attend, window_implementation
from alibi_cli.models.body_and_head import device_of
from alibi_cli.models.language_model import positions_end
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.runtime.alibi_rewrite import configs_of
from alibi_cli.surgery.refusals import trained_length

if TYPE_CHECKING:
    from alibi_cli.models.language_model import ModelInfo

SINKS = 4  # Xiao et al. 2023, arXiv 2309.17453: four are enough, more add nothing


@dataclass(frozen=True)
class Limits:
    """What of a model's own decides which arms it can have. no_window, no_turning, no_rotation: why it cannot have windows, queries that
    are turned back, stretched rotations; None if it can. own_window: of its layers, if all have one."""

    no_window: str | None = None
    no_turning: str | None = None
    no_rotation: str | None = None
    own_window: int | None = None


@dataclass(frozen=True)
class Arm:
    """kind: one of ARMS. size: the window that was given, None for that of the trained length."""

    kind: str
    size: int | None = None

    @property
    def name(self) -> str:
        return self.kind if self.size is None else f"{self.kind}:{self.size}"

    @property
    def order(self) -> tuple[int, int]:
        return ARMS.index(self.kind), self.size or 0

    def reach(self, trained_length: int | None) -> int | None:
        """Up to how many tokens the arm is the original; None if that cannot be told."""
        return self.size or trained_length

    def applies(self, info: "ModelInfo", length: int) -> bool:
        """False for a converted model, for one that cannot have the arm, and where the arm is the original."""
        reach = self.reach(info.trained_length)
        return self.obstacle(info) is None and reach is not None and length > reach

    def obstacle(self, info: "ModelInfo") -> str | None:
        """Why a model cannot have this arm; None if it can."""
        if info.converted:
            return "it is converted"
        return self.obstacle_of(limits_of(info.skeleton, info.masked), info.trained_length, info.hard_limit)

    def obstacle_of(self, limits: Limits, trained_length: int | None, hard_limit: int | None) -> str | None:
        """The same of a stock model with these limits."""
        reach = self.reach(trained_length)
        if reach is None:
            return "its config names no trained length"
        if self.kind in WINDOWS and hard_limit is not None and reach >= hard_limit:
            return f"it has embeddings for {hard_limit} positions, and no window can have more"
        return self._obstacle(limits, reach)

    def _obstacle(self, limits: Limits, reach: int) -> str | None:
        own = limits.own_window
        if self.kind == TRUNCATED:
            return None
        if self.kind in ROTATIONS:
            return limits.no_rotation
        if limits.no_window is None and own is not None and own <= reach:
            return (
                f"all its layers have a window of {own} tokens of their own, which a window of {reach} leaves as it is"
            )
        return limits.no_window or (limits.no_turning if self.kind == STREAMING else None)

    def settings(self, trained_length: int, length: int) -> dict[str, float]:
        """What the arm does at a length: {"window", "sinks"} or {"factor"}; nothing for truncated."""
        reach = self.size or trained_length
        if self.kind in ROTATIONS:
            return {"factor": length / trained_length}
        sinks = 0 if self.kind == WINDOW else SINKS
        return {} if self.kind == TRUNCATED else {"window": reach - sinks, "sinks": sinks}


def to_beat(model: PreTrainedModel) -> list[str]:
    """The arms that say most of a conversion of a stock model, which may be on the meta device: the default, and the best window that it
    can have beyond its trained length; nothing if it can have none."""
    limits, trained = limits_of(model), trained_length(model.config)
    hard = trained if positions_end(model) else None
    windows = [arm for arm in (Arm(STREAMING), Arm(WINDOW_AND_SINKS)) if arm.obstacle_of(limits, trained, hard) is None]
    return [TRUNCATED, *(arm.name for arm in windows[:1])] if windows else []


def parse_arm(name: str) -> Arm:
    """
    Raises:
        AlibiError: no arm has this name, or its window has no room.
    """
    found = re.fullmatch(r"(.+?)(?::(\d+))?", name)
    kind, size = (found[1], int(found[2]) if found[2] else None) if found else (name, None)
    if kind not in ARMS or (size is not None and kind not in WINDOWS):
        windows = ", ".join(f"{window}:N" for window in WINDOWS)
        raise UsageError(f"There is no arm {name!r}; there are {', '.join(ARMS)}, {windows}.")
    if size is not None and size <= (0 if kind == WINDOW else SINKS):
        raise UsageError(f"{name}: a window of {size} tokens has no room for the latest.")
    return Arm(kind, size)


def split_arm(name: str) -> tuple[str, str | None]:
    """(MODEL, ARM) of "MODEL:ARM", (name, None) of anything else: folders and Hub names may hold colons of their own."""
    arms, windows = ("|".join(map(re.escape, names)) for names in (ARMS, WINDOWS))
    found = re.fullmatch(rf"(.+):((?:{arms})|(?:{windows}):\d+)", name, re.DOTALL)
    return (name, None) if found is None or Path(name).exists() else (found[1], found[2])


def limits_of(model: PreTrainedModel, masked: bool = False) -> Limits:
    """Of a model that may be on the meta device."""
    config = model.config.get_text_config()
    no_window = None
    if masked or config.is_encoder_decoder:
        no_window = "windows are for models that predict the next token"
    elif ATTENTION_NAME in {config._attn_implementation for config in configs_of(model)}:
        no_window = "its attention is that of ALiBi"
    elif not model._can_set_attn_implementation():
        no_window = "its attention does not go through transformers' attention interface"
    window, layers = getattr(config, "sliding_window", None), getattr(config, "layer_types", None) or [SLIDING]
    return Limits(
        no_window, no_turning(model), no_stretching(model), window if window and set(layers) == {SLIDING} else None
    )


@contextmanager
def arm_of(model: PreTrainedModel, name: str, *, trained_length: int, length: int) -> Iterator[None]:
    """While it lasts, the model computes sequences of `length` tokens as the arm `name` does; then it is what it was.

    It changes nothing where the arm is the original: for "full", and for lengths within the arm's reach.

    Raises:
        AlibiError: no such arm, one that this model cannot have, or "truncated", which is a matter of what is fed.
    """
    if name == FULL:
        yield
        return
    arm = parse_arm(name)
    if arm.kind == TRUNCATED:
        raise AlibiError(f"The arm {name} is the model itself: feed it the last {trained_length} tokens.")
    reach = arm.size or trained_length
    if reason := arm._obstacle(limits_of(model), reach):
        raise refusal(name, type(model).__name__, reason)
    settings = arm.settings(trained_length, length)
    if length <= reach:
        yield
    elif arm.kind in ROTATIONS:
        with stretched(model, arm.kind, settings["factor"], trained_length):
            yield
    else:
        streams = arm.kind == STREAMING
        implementation = window_implementation(int(settings["window"]), int(settings["sinks"]), streams)
        with turning(model) if streams else nullcontext(), _attending(model, name, implementation):
            yield


def refusal(arm: str, model: str, reason: str) -> AlibiError:
    return UsageError(f"{model} cannot have the arm {arm}: {reason}.")


@contextmanager
def _attending(model: PreTrainedModel, name: str, implementation: str) -> Iterator[None]:
    configs = configs_of(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:  # set_attn_implementation does not reach every family
            config._attn_implementation = implementation
        _check_layers(model, name, implementation)
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation = own


def _check_layers(model: PreTrainedModel, name: str, implementation: str) -> None:
    """Every layer must attend as the arm says, or its figures would be those of no arm at all: two tokens tell."""
    seen, layers = [], model.config.get_text_config().num_hidden_layers

    def noting(module: torch.nn.Module, *args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        seen.append(module)
        return attend(module, *args, **options)

    AttentionInterface.register(implementation, noting)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device_of(model)), use_cache=False)
    except (TypeError, AttributeError) as error:
        raise refusal(name, type(model).__name__, f"it works on masks itself ({first_line(error)})") from error
    finally:
        AttentionInterface.register(implementation, attend)
    if len(seen) != layers:
        reason = f"{len(seen)} of its {layers} layers attend through transformers' attention interface"
        raise refusal(name, type(model).__name__, reason)
