"""Calibration where the positions are replaced: slopes that imitate the original's attention, then its predictions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.distil import Curve, distil, one_by_one
from alibi_cli.calibration.divergence import TOKENS_PER_BATCH, Divergence
from alibi_cli.calibration.heads import HeadStatistics, observe_heads
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.lookback import fit_factors, slopes_of_distances
from alibi_cli.calibration.sinks import choose_sinks
from alibi_cli.calibration.sparkline import Sparkline
from alibi_cli.calibration.state import NOWHERE, State
from alibi_cli.calibration.twin import converted_twin, layer_lists, position_vectors
from alibi_cli.calibration.windows import CalibrationWindows, Parts
from alibi_cli.errors import UsageError
from alibi_cli.progress import Update
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.settings.conversion import METHODS
from alibi_cli.slopes import get_slopes

Grid = Callable[[list[list[float]]], tuple[list[list[float]], float]]  # slopes -> slopes on the grid, its max_bias
OBSERVED_TOKENS = 1 << 13  # of those that distillation learns from; the look-back looks at all


@dataclass(frozen=True)
class Calibrated:
    """heads: of the original. start, look_back, end: KL(original || converted) with Press's slopes, the look-back's and at the end, in nats
    per token of text that nothing was learned from or chosen by; grid_kl: {"grid": the same with the slopes on a grid}, or nothing. slopes:
    (layers, heads), the ones to write. max_bias: of the grid."""

    converted: PreTrainedModel
    learnable: Learnable
    heads: HeadStatistics
    slopes: list[list[float]]
    sinks: int
    start: float
    look_back: float
    end: float
    curve: Curve | None
    seconds: float
    grid_kl: dict[str, float] = field(default_factory=dict)
    max_bias: float | None = None


def calibrate_replaced(
    model: PreTrainedModel,
    parts: Parts,
    method: str = "distil",
    update: Update = lambda *_: None,
    sinks: int | None = None,
    state: State = NOWHERE,
    grid: Grid | None = None,
) -> Calibrated:
    """Finds slopes (and what else `method` learns) under which the converted model does what `model` does.

    The two share their weights in memory; `model` is not changed. Windows have the length that the model was trained for. sinks: how many
    first tokens of a document get no bias; chosen by the attention of the original if not given. The look-back leaves them out. grid: moves
    the slopes that were found to a grid, where they stay.

    Raises:
        AlibiError: an encoder-decoder, or attention that does not show its weights.
        ValueError: no such method.
    """
    if method not in METHODS[DEFAULT_POLICY]:
        raise ValueError(f"{method!r} is none of {', '.join(METHODS['replace'])}.")
    if model.config.is_encoder_decoder:
        raise UsageError(f"A {model.config.model_type} is an encoder-decoder; calibration reads one text.")
    started = time.monotonic()
    model.eval()
    heads, means = _look_at_heads(model, parts.learned_from.input_ids, method, sinks, update)
    length = parts.learned_from.input_ids.shape[1]
    press = torch.tensor(get_slopes(heads.distance.shape[1])).expand(heads.distance.shape)
    slopes = layer_lists(press.tolist(), model)
    converted = converted_twin(model, slopes, length, position_vector=True, sinks=heads.sinks)
    learnable = Learnable(converted, press, method, length)
    divergence = Divergence(model, converted)
    start = divergence.mean(parts.reported_on)
    _begin(learnable, divergence, parts.chosen_by, heads, means, update)
    look_back = divergence.mean(parts.reported_on)
    curve = None
    if method != "look-back":
        shown = Sparkline()
        curve = distil(
            learnable,
            divergence,
            one_by_one(parts.learned_from),
            [parts.chosen_by],
            lambda done, of, kl: update(f"Distilling, KL {kl:.3f} {shown.add(kl)}", done, of),
            state,
        )
    end = divergence.mean(parts.reported_on)
    learnable.settle()
    found, grid_kl, max_bias = learnable.slopes(), {}, None
    if grid is not None:
        found, max_bias = grid(found)
        for module, row in zip(learnable.modules, found, strict=True):
            module.alibi_slopes = row
        grid_kl = {"grid": divergence.mean(parts.reported_on)}
    converted.config.alibi_slopes = layer_lists(found, model)
    return Calibrated(
        converted=converted,
        learnable=learnable,
        heads=heads,
        slopes=found,
        sinks=heads.sinks,
        start=start,
        look_back=look_back,
        end=end,
        curve=curve,
        seconds=time.monotonic() - started,
        grid_kl=grid_kl,
        max_bias=max_bias,
    )


def _look_at_heads(
    model: PreTrainedModel, windows: torch.Tensor, method: str, sinks: int | None, update: Update
) -> tuple[HeadStatistics, dict[str, torch.Tensor]]:
    """What the heads of the original do on (N, L) windows, and the mean of the positions that its modules add, by their names."""
    length = windows.shape[1]
    observed = windows if method == "look-back" else windows[: max(1, OBSERVED_TOKENS // length)]
    if sinks is None:
        skeleton = converted_twin(model, get_slopes(model.config.num_attention_heads), length)
        sinks = 0 if _has_own_bias(skeleton) else choose_sinks(model, observed)
    with _positions_seen(model) as means:
        batches = list(observed.to(model.device).split(max(1, TOKENS_PER_BATCH // length)))
        heads = observe_heads(model, batches, lambda n: update("Looking at the heads", n, len(batches)), sinks)
    return heads, means


def _begin(
    learnable: Learnable,
    divergence: Divergence,
    chosen_by: CalibrationWindows,
    heads: HeadStatistics,
    means: dict[str, torch.Tensor],
    update: Update,
) -> None:
    """From Press et al.'s slopes to those of the look-back, if these are nearer to the original."""
    press, of_press = divergence.mean(chosen_by), learnable.state()
    with torch.no_grad():
        for name, vector in learnable.added.items():
            vector.copy_(means[name.removesuffix(".vector")])
        learnable.log_slopes.copy_(slopes_of_distances(heads.distance_without_sinks).log())
    learnable.place()
    look_back = fit_factors(
        learnable, divergence, chosen_by, lambda done, of, kl: update(f"Look-back, KL {kl:.3f}", done, of)
    )
    if look_back > press:  # a BLOOM, whose slopes are Press's
        learnable.restore(of_press)


def _has_own_bias(converted: PreTrainedModel) -> bool:
    return any(getattr(module, "alibi_own_bias", False) for module in converted.modules())


@contextmanager
def _positions_seen(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """{module that adds positions: the mean (d,) of what it adds}, filled while the original runs."""
    skeleton = converted_twin(model, get_slopes(model.config.num_attention_heads), 1, position_vector=True)
    means: dict[str, torch.Tensor] = {}
    handles = []
    for name in (vector.removesuffix(".vector") for vector in position_vectors(skeleton)):
        owner, _, leaf = name.rpartition(".")
        table = getattr(model.get_submodule(owner), leaf)
        if isinstance(table, torch.Tensor):  # a buffer of sines
            means[name] = table.mean(0)
        else:
            handles.append(table.register_forward_hook(_keep_mean(means, name)))
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


def _keep_mean(means: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        means[name] = output.detach().flatten(0, -2).mean(0)

    return hook
