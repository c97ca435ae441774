"""Does it help to let the rotation fade while the bias comes in, instead of taking it away at once?

    python -m benchmarks.healing.annealing [--steps 600] [--output benchmarks/healing/annealing.json]

demo-llama is converted with look-back slopes and healed on sequences of 512 tokens, one a step, by the original's predictions and hidden
states, with slopes that train. With a rising from 0 to 1, the scores of a head are, beside a times the bias,

mix      1 - a times the rotated ones and a times those without rotation
stretch  rotated by positions times 1 - a

linear: a rises evenly over the first half of the steps; halving: 1 - a falls to 0.01 by equal factors over the first 60 %.
"""

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import get_cosine_schedule_with_warmup

from alibi_cli.attention.in_models import registered
from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.lookback import fit_factors, slopes_of_distances
from alibi_cli.calibration.twin import converted_twin
from alibi_cli.calibration.windows import CalibrationWindows, make_windows
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.runtime.alibi_attention import alibi_attention
from alibi_cli.slopes import get_slopes
from alibi_cli.surgery.apply import apply_alibi
from alibi_cli.text.documents import Text, load_text, open_text
from alibi_cli.training.loss import hidden_loss, token_losses
from alibi_cli.training.trainable_slopes import attach_slopes
from benchmarks.healing.remedies import LENGTH, nll

LEARNING_RATE, WARMUP, KD_WEIGHT, HIDDEN_WEIGHT = 3e-3, 0.05, 0.9, 8.0
ARMS = ((None, None), ("mix", "linear"), ("stretch", "linear"), ("mix", "halving"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/healing/annealing.json"))
    args = parser.parse_args()
    info = describe("demo-llama")
    tokenizer = load_tokenizer(info)
    name, documents = open_text(training=True)
    held_out, windows = make_windows(Text(name, list(documents)), tokenizer, LENGTH, args.steps * LENGTH + 8192).split(
        16
    )
    unseen = make_windows(load_text(), tokenizer, LENGTH, 65536)
    original = nll(load_model(info), unseen)
    slopes = look_back(load_model(info), held_out)
    results: dict[str, Any] = {"model": info.name, "steps": args.steps, "original": original, "arms": []}
    for how, schedule in ARMS:
        value = healed(load_model(info), load_model(info), slopes, windows, unseen, args.steps, how, schedule)
        results["arms"].append(
            {"fades by": how, "schedule": schedule, "nll": value, "above the original": value - original}
        )
        print(f"{how or 'at once':8} {schedule or '':8} NLL {value:.4f}, {value - original:+.4f}", flush=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n")


def look_back(model: Any, windows: CalibrationWindows) -> list[list[float]]:
    """Slopes per layer and head, as `alibi convert --calibrate look-back` finds them."""
    distances = observe_heads(model, list(windows.input_ids.split(4))).distance
    converted = converted_twin(model, [get_slopes(distances.shape[1])] * len(distances), LENGTH)
    learnable = Learnable(converted, slopes_of_distances(distances), "look-back", LENGTH)
    fit_factors(learnable, Divergence(model, converted), windows)
    rows: list[list[float]] = learnable.log_slopes.exp().tolist()
    return rows


def healed(
    teacher: Any,
    student: Any,
    slopes: list[list[float]],
    windows: CalibrationWindows,
    unseen: CalibrationWindows,
    steps: int,
    how: str | None,
    schedule: str | None,
) -> float:
    """The NLL of `student` on `unseen` after so many steps."""
    frequencies = student.model.rotary_emb.inv_freq.clone()
    apply_alibi(student, LENGTH, slopes=slopes)
    attach_slopes(student, LENGTH)
    parameters = list(student.requires_grad_().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    rate = get_cosine_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
    with _fading(how, frequencies) as fade:
        for step, ids in enumerate(windows.input_ids[:steps].split(1)):
            fade["a"] = _risen(schedule, step / steps)
            with torch.no_grad():
                theirs = teacher(input_ids=ids, use_cache=False, output_hidden_states=True)
            ours = student(input_ids=ids, use_cache=False, output_hidden_states=True)
            ce, kd = token_losses(ours.logits[:, :-1], ids[:, 1:], theirs.logits[:, :-1])
            hidden = hidden_loss(ours.hidden_states, theirs.hidden_states, torch.ones_like(ids, dtype=torch.bool))
            loss = ((1 - KD_WEIGHT) * ce + KD_WEIGHT * kd + HIDDEN_WEIGHT * hidden) / ids.numel()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        fade["a"] = 1.0
        return nll(student, unseen)


def _risen(schedule: str | None, part: float) -> float:
    """a after `part` of the steps."""
    if schedule == "linear":
        return min(1.0, part / 0.5)
    return 1 - 0.01 ** (part / 0.6) if schedule == "halving" and part < 0.6 else 1.0


@contextmanager
def _fading(how: str | None, frequencies: torch.Tensor) -> Iterator[dict[str, float]]:
    """While it lasts, converted models attend as the heading says, with a from the dictionary that it yields."""
    fade = {"a": 1.0}

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **rest: Any
    ) -> Any:
        a = fade["a"]
        if how is None or a == 1:
            return alibi_attention(module, query, key, value, mask, scaling=scaling, **rest)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        place = torch.arange(query.shape[2])
        angle = (place[:, None] * frequencies * (1 - a if how == "stretch" else 1.0)).repeat(1, 2)  # (Q, D)
        scores = _turned(query, angle) @ _turned(key, angle).transpose(-1, -2)
        if how == "mix":
            scores = (1 - a) * scores + a * (query @ key.transpose(-1, -2))
        distance = place[:, None] - place[None, :]
        scores = scores * scaling - a * module.alibi_slopes[:, None, None] * distance
        weights = scores.masked_fill(distance < 0, -math.inf).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous(), None

    with registered(attend):
        yield fade


def _turned(vectors: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(B, H, Q, D) vectors, the pair (f, f + D / 2) turned by angle (Q, D)[:, f]."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


if __name__ == "__main__":
    main()
