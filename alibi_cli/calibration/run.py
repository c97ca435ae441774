"""Calibration of a checkpoint: the original is loaded once, looked at, and imitated."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.distil import Curve, distil
from alibi_cli.calibration.divergence import TOKENS_PER_BATCH, Divergence
from alibi_cli.calibration.heads import HeadStatistics, observe_heads
from alibi_cli.calibration.learnable import METHODS, Learnable
from alibi_cli.calibration.lookback import fit_factors, slopes_of_distances
from alibi_cli.calibration.twin import converted_twin, layer_lists, position_vectors
from alibi_cli.calibration.windows import CalibrationWindows, make_windows
from alibi_cli.checkpoint.learned import Learned
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.text import Text
from alibi_cli.slopes import get_slopes

Update = Callable[[str, float, float], None]
DEFAULT_METHOD, DEFAULT_TOKENS = "distil", 1 << 18
HELD_OUT_TOKENS = 1 << 13  # for early stopping and for the factors of the look-back


@dataclass(frozen=True)
class Calibrated:
    """heads: of the original. start, look_back, end: KL(original || converted) with Press's slopes, the look-back's and at the end, in nats
    per token of text that nothing was learned from."""

    converted: PreTrainedModel
    learnable: Learnable
    heads: HeadStatistics
    start: float
    look_back: float
    end: float
    curve: Curve | None
    seconds: float


def calibrate(
    model: PreTrainedModel,
    windows: CalibrationWindows,
    held_out: CalibrationWindows,
    method: str = DEFAULT_METHOD,
    update: Update = lambda *_: None,
    sinks: int = 0,
) -> Calibrated:
    """Finds slopes (and what else `method` learns) under which the converted model does what `model` does.

    The two share their weights in memory; `model` is not changed. Windows have the length that the model was trained for. The look-back
    leaves out the first `sinks` tokens of each window.

    Raises:
        AlibiError: an encoder-decoder, or attention that does not show its weights.
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is none of {', '.join(METHODS)}.")
    if model.config.is_encoder_decoder:
        raise AlibiError(
            f"A {model.config.model_type} is an encoder-decoder; calibration reads one text.", exit_code=EXIT_USAGE
        )
    started = time.monotonic()
    model.eval()
    length = windows.input_ids.shape[1]
    with _positions_seen(model) as means:
        size = max(1, TOKENS_PER_BATCH // length)
        batches = list(held_out.input_ids.to(model.device).split(size))
        heads = observe_heads(model, batches, lambda n: update("Looking at the heads", n, len(batches)), sinks)
    press = torch.tensor(get_slopes(heads.distance.shape[1])).expand(heads.distance.shape)
    converted = converted_twin(model, layer_lists(press.tolist(), model), length, position_vector=True)
    learnable = Learnable(converted, press, method, length)
    divergence = Divergence(model, converted)
    start, of_press = divergence.mean(held_out), learnable.state()
    with torch.no_grad():
        for name, vector in learnable.added.items():
            vector.copy_(means[name.removesuffix(".vector")])
        learnable.log_slopes.copy_(slopes_of_distances(heads.distance_without_sinks).log())
    learnable.place()
    look_back = end = fit_factors(
        learnable, divergence, held_out, lambda done, of, kl: update(f"Look-back, KL {kl:.3f}", done, of)
    )
    if look_back > start:  # a BLOOM, whose slopes are Press's
        learnable.restore(of_press)
        look_back = end = start
    curve = None
    if method != "look-back":
        shown = Sparkline()
        curve = distil(
            learnable,
            divergence,
            windows,
            held_out,
            lambda done, of, kl: update(f"Distilling, KL {kl:.3f} {shown.add(kl)}", done, of),
        )
        end = min(kl for _, kl in curve.held_out)
    for module, row in zip(learnable.modules, learnable.slopes(), strict=True):
        module.alibi_slopes = row
    converted.config.alibi_slopes = layer_lists(learnable.slopes(), model)
    return Calibrated(converted, learnable, heads, start, look_back, end, curve, time.monotonic() - started)


def learn(
    model: PreTrainedModel,
    tokenizer: Any,
    text: Text,
    trained_length: int,
    method: str = DEFAULT_METHOD,
    n_tokens: int = DEFAULT_TOKENS,
    masked: bool = False,
    seed: int = 0,
    update: Update = lambda *_: None,
    sinks: int = 0,
) -> Learned:
    """`calibrate` on a text: what a conversion writes down."""
    update("Reading the text", 0, 1)
    held_out_tokens = min(HELD_OUT_TOKENS, max(n_tokens // 4, trained_length))
    everything = make_windows(text, tokenizer, trained_length, n_tokens + held_out_tokens, masked, seed)
    n_held_out = max(1, min(held_out_tokens // trained_length, len(everything.input_ids) // 4))
    held_out, windows = everything.split(n_held_out)
    found = calibrate(model, windows, held_out, method, update, sinks)
    learnable, curve = found.learnable, found.curve
    return Learned(
        scheme=f"calibrated, {method}",
        slopes=layer_lists(learnable.slopes(), model),
        added={name: tensor.detach().cpu() for name, tensor in learnable.added.items()},
        changed={name: tensor.detach().cpu() for name, tensor in learnable.changed.items()},
        record={
            "method": method,
            "text": windows.text,
            "window": trained_length,
            "tokens": curve.kl[-1][0] if curve else held_out.n_tokens,
            "held_out_tokens": held_out.n_tokens,
            "seed": seed,
            "seconds": round(found.seconds, 1),
            "slope_bounds": [learnable.gentlest, learnable.steepest],
            "kl_nats_per_token": {"press": found.start, "look_back": found.look_back, "end": found.end},
            "kl_curve": [] if curve is None else curve.kl,
            "kl_curve_held_out": [] if curve is None else curve.held_out,
            "stopped_early": curve is not None and curve.stopped_early,
            "heads_of_the_original": found.heads.as_json(),
        },
    )


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


class Sparkline:
    """The last values as a row of blocks."""

    BLOCKS = "▁▂▃▄▅▆▇█"

    def __init__(self, width: int = 24):
        self.values: list[float] = []
        self.width = width

    def add(self, value: float) -> str:
        self.values.append(value)
        every = max(1, len(self.values) // self.width)
        shown = self.values[::every][-self.width :]
        low, high = min(shown), max(shown)
        span = (high - low) or 1.0
        return "".join(self.BLOCKS[min(7, int(8 * (v - low) / span))] for v in shown)
