"""Why a rotary model cannot be recovered by slopes alone, and what was tried.

    python -m benchmarks.healing.remedies [--model demo-llama] [--tokens 131072] [--output benchmarks/healing/remedies.json]

First, what each head costs: the original's NLL with one head's rotation replaced by the best of a few slopes, everything else untouched.
Then the recovered share R of calibrations that may learn more than slopes. Each of them changes the queries of a head, after the rotation:

temperature          q * t, one number per head
scale                q * s, one number per head and dimension
rotation             q turned by a fixed angle and scaled, per head and frequency; begins at E[e^(i theta d)] over the distances d that
                     the head looks back, which is what its rotation does on average
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.llama import modeling_llama

from alibi_cli.attention.in_models import registered
from alibi_cli.calibration import distil as distillation
from alibi_cli.calibration.distil import distil, one_by_one
from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.lookback import slopes_of_distances
from alibi_cli.calibration.twin import converted_twin
from alibi_cli.calibration.windows import CalibrationWindows, make_windows
from alibi_cli.models.language_model import describe
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.runtime.alibi_attention import alibi_attention
from alibi_cli.slopes import get_slopes
from alibi_cli.text.documents import Text, load_text, open_text

LENGTH = 512
SLOPES = (0.003, 0.03, 0.1, 0.3, 1.0, 3.0)
Transform = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # query (B, H, Q, D), parameter -> query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo-llama")
    parser.add_argument("--tokens", type=int, default=1 << 17)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/healing/remedies.json"))
    args = parser.parse_args()
    info = describe(args.model)
    model, tokenizer = load_model(info), load_tokenizer(info)
    name, documents = open_text(training=True)
    everything = make_windows(Text(name, list(documents)), tokenizer, LENGTH, args.tokens + 8192)
    held_out, windows = everything.split(16)
    unseen = make_windows(load_text(), tokenizer, LENGTH, 65536)
    results: dict[str, Any] = {"model": args.model, "tokens": args.tokens, "original": nll(model, unseen)}
    results["heads"] = cost_of_heads(model, unseen.split(8)[0])
    print("a head's cost at its best slope, by layer:", *results["heads"], sep="\n  ", flush=True)
    press = converted_twin(
        model, [get_slopes(model.config.num_attention_heads)] * model.config.num_hidden_layers, LENGTH
    )
    results["press"] = nll(press, unseen)
    distances = torch.tensor(observe_heads(model, list(held_out.input_ids.split(4))).distance)
    results["arms"] = []
    for transform in (None, "temperature", "scale", "rotation"):
        for method in ("distil", "distil+norms"):
            value = calibrated(model, windows, held_out, unseen, method, transform, distances)
            share = 100 * (results["press"] - value) / (results["press"] - results["original"])
            results["arms"].append({"learns": method, "queries": transform, "nll": value, "recovered_percent": share})
            print(f"{method:13} {transform or 'slopes only':12} NLL {value:.4f}  R {share:.1f} %", flush=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n")


@torch.no_grad()
def nll(model: PreTrainedModel, windows: CalibrationWindows) -> float:
    """Nats per token over the second half of each window."""
    total = count = 0.0
    for batch in windows.input_ids.split(8):
        logits = model(input_ids=batch, use_cache=False).logits[:, LENGTH // 2 - 1 : -1]
        total += cross_entropy(logits.flatten(0, 1), batch[:, LENGTH // 2 :].flatten(), reduction="sum").item()
        count += batch[:, LENGTH // 2 :].numel()
    return total / count


def calibrated(
    model: PreTrainedModel,
    windows: CalibrationWindows,
    held_out: CalibrationWindows,
    unseen: CalibrationWindows,
    method: str,
    transform: str | None,
    distances: torch.Tensor,
) -> float:
    """The NLL after a calibration that also learns `transform`."""
    converted = converted_twin(model, [get_slopes(distances.shape[1])] * len(distances), LENGTH)
    learnable = Learnable(converted, slopes_of_distances(distances.numpy()), method, LENGTH)
    apply, start = TRANSFORMS[transform] if transform else (None, None)
    if start is not None:
        for module, layer in zip(learnable.modules, range(len(distances)), strict=True):
            module.query_parameter = torch.nn.Parameter(start(model, distances[layer]))
            learnable.changed[f"layer {layer}"] = module.query_parameter
    with _queries(apply):
        distil(learnable, Divergence(model, converted), one_by_one(windows), [held_out])
        return nll(converted, unseen)


@contextmanager
def _queries(transform: Transform | None) -> Iterator[None]:
    """While it lasts, converted models attend with transformed queries."""

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> Any:
        parameter = getattr(module, "query_parameter", None)
        changed = query if parameter is None or transform is None else transform(query, parameter)
        return alibi_attention(module, changed, key, value, mask, **options)

    with registered(attend):
        yield


def _rotate(query: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """parameter (2, H, D / 2): real and imaginary part by which each pair (q[f], q[f + D / 2]) is multiplied."""
    real, imaginary = (torch.cat([part, part], dim=-1)[None, :, None] for part in parameter)  # (1, H, 1, D)
    first, second = query.chunk(2, dim=-1)
    return query * real + torch.cat([-second, first], dim=-1) * imaginary


def _mean_rotation(model: Any, distances: torch.Tensor) -> torch.Tensor:
    """E[e^(i theta d)] under the geometric distribution of mean distance E[d]: (1 - r) / (1 - r e^(i theta)) with r = E / (1 + E)."""
    ratio = (distances / (1 + distances))[:, None]
    turned = torch.polar(
        ratio.expand(-1, len(model.model.rotary_emb.inv_freq)), model.model.rotary_emb.inv_freq[None].double()
    )
    mean = (1 - ratio) / (1 - turned)
    return torch.stack([mean.real, mean.imag]).float()


TRANSFORMS: dict[str, tuple[Transform, Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "temperature": (lambda q, p: q * p[None, :, None], lambda model, d: torch.ones(len(d), 1)),
    "scale": (lambda q, p: q * p[None, :, None], lambda model, d: torch.ones(len(d), model.config.head_dim)),
    "rotation": (_rotate, _mean_rotation),
}


@torch.no_grad()
def cost_of_heads(model: PreTrainedModel, windows: CalibrationWindows) -> list[list[float]]:
    """(layers, H): by how much the NLL rises if one head alone gets a bias, the best of SLOPES, for its rotation."""
    unrotated: dict[str, torch.Tensor] = {}
    replaced: dict[int, tuple[int, float]] = {}
    stock = modeling_llama.apply_rotary_pos_emb

    def remember(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        unrotated.update(q=q, k=k)
        return stock(q, k, *args, **kwargs)

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]
        position = torch.arange(query.shape[2])
        distance = position[:, None] - position[None, :]
        scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling
        if module.layer_idx in replaced:
            head, slope = replaced[module.layer_idx]
            plain = unrotated["q"][:, head] @ unrotated["k"][:, head // groups].transpose(-1, -2) * scaling
            scores[:, head] = plain - slope * distance
        weights = scores.masked_fill(distance < 0, -math.inf).softmax(-1)
        return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    AttentionInterface.register("one_head", attend)
    modeling_llama.apply_rotary_pos_emb, model.config._attn_implementation = remember, "one_head"
    try:
        base, costs = nll(model, windows), []
        for layer in range(model.config.num_hidden_layers):
            row = []
            for head in range(model.config.num_attention_heads):
                found = []
                for slope in SLOPES:
                    replaced.clear()
                    replaced[layer] = (head, slope)
                    found.append(nll(model, windows) - base)
                row.append(round(min(found), 4))
            costs.append(row)
        return costs
    finally:
        modeling_llama.apply_rotary_pos_emb, model.config._attn_implementation = stock, before


if __name__ == "__main__":
    distillation.PATIENCE = 20  # the whole budget, so that arms do not differ by where they stopped
    main()
