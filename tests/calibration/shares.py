"""What the queries of a converted model give to keys that are far away, by the definition in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from alibi_cli.attention.in_models import registered
from alibi_cli.runtime import alibi_modules
from alibi_cli.runtime.alibi_attention import alibi_attention


def shown(converted: torch.nn.Module, tokens: torch.Tensor) -> list[dict[str, Any]]:
    """What each layer of a converted model attends with: queries and keys (B, H, K, D) with the options of its scores."""
    caught = []

    def catch(layer: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        kept = {name: options.get(name) for name in ("scaling", "softcap", "s_aux", "sliding_window")}
        limit, near = getattr(layer.config, "alibi_sink_distance", None), None
        if limit is not None:
            near = limit, layer.alibi_rotation[0].inv_freq.double().numpy()
        caught.append({"query": query.numpy(), "key": key.repeat_interleave(groups, 1).numpy(), "near": near, **kept})
        return alibi_attention(layer, query, key, value, mask, **options)

    with registered(catch), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(alibi_modules, "alibi_attention", catch)  # GPT-J calls it by its name
        converted(input_ids=tokens)
    return caught


def share_beyond(
    layer: dict[str, Any],
    head: int,
    slopes: Any,
    offset: float,
    sinks: int,
    reach: int,
    causal: bool,
    places: list[int],
) -> np.ndarray:
    """The mean weight beyond `reach` of queries that have keys there, one query after the other, under each of (G,) slopes."""
    shares = []
    windows, keys = layer["query"].shape[0], layer["key"].shape[2]
    scaling = layer["scaling"] or layer["query"].shape[-1] ** -0.5
    for window in range(windows):
        for i in places:
            distance = abs(i - np.arange(keys))
            seen = np.arange(keys) <= i if causal else np.ones(keys, bool)
            if layer["sliding_window"]:
                seen &= distance < layer["sliding_window"]
            query = layer["query"][window, head, i]
            scores = layer["key"][window, head] @ query * scaling
            if layer["near"] is not None and sinks:  # which are seen from where they were trained to be seen
                limit, frequencies = layer["near"]
                angle = np.concatenate([frequencies, frequencies]) * min(0, limit - i)
                half = len(frequencies)
                turned = query * np.cos(angle) + np.concatenate([-query[half:], query[:half]]) * np.sin(angle)
                scores[:sinks] = layer["key"][window, head, :sinks] @ turned * scaling
            if layer["softcap"]:
                scores = layer["softcap"] * np.tanh(scores / layer["softcap"])
            free = np.arange(keys) < sinks
            ramp = np.where(free, 0, np.maximum(0, distance - offset))
            weights = np.where(seen, np.exp(scores - np.outer(slopes, ramp)), 0)  # (G, K)
            total = weights.sum(-1)
            if layer["s_aux"] is not None:
                total += math.exp(layer["s_aux"][head].item())
            shares.append(weights[:, (distance > reach) & ~free].sum(-1) / total)
    return np.mean(shares, axis=0)
