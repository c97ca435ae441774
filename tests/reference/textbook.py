"""Textbook ALiBi, written a second time and by other means than the product's.

The product rewrites modules. Here nothing is rewritten: a stock model gets zeros in its position table and position id 0 for every
token (a rotation by nought), and its attention is computed by loops over queries in float64 from the definition,

    out_i = sum_j softmax_j( scaling * q_i.k_j - m_h |i - j| ) v_j,   j visible to i,

ignoring whatever mask the model built. Only the stock modelling code outside the attention is shared.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

SETTING: dict = {}


def textbook_slopes(n: int) -> list[float]:
    """From the text of the paper and its footnote: exponents 8/p, 16/p, … 8 for p heads; the rest from every other one of 2p heads."""
    p = 2 ** math.floor(math.log(n, 2) + 1e-9)
    exponents = np.arange(1, p + 1) * (8.0 / p)
    between = (np.arange(2 * p)[::2] + 1) * (8.0 / (2 * p))
    return [float(math.exp(-math.log(2.0) * e)) for e in np.concatenate([exponents, between[: n - p]])]


def textbook_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    q, k, v = (tensor.detach().to(torch.float64).numpy() for tensor in (query, key, value))
    batch, heads, queries, width = q.shape
    scale = width**-0.5 if scaling is None else scaling
    group = heads // k.shape[1]
    slopes = SETTING["slopes"][getattr(module, "layer_idx", None) or 0]
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    out = np.zeros((batch, queries, heads, width))
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                visible = [j for j in range(k.shape[2]) if _sees(kwargs.get("sliding_window"), b, i, j)]
                if not visible:
                    continue  # a padded query: its output is read by nobody
                scores = np.array([scale * float(q[b, h, i] @ k[b, h // group, j]) for j in visible])
                if softcap is not None:
                    scores = softcap * np.tanh(scores / softcap)
                scores -= slopes[h] * np.abs(i - np.array(visible))
                sink = -math.inf if sinks is None else float(sinks.reshape(-1)[h])
                top = max(scores.max(), sink)
                weights = np.exp(scores - top)
                out[b, i, h] = (weights / (weights.sum() + math.exp(sink - top))) @ v[b, h // group, visible]
    return torch.from_numpy(out).to(query.dtype), None


def _sees(window: int | None, b: int, i: int, j: int) -> bool:
    padding, causal = SETTING["padding"], SETTING["causal"]
    if padding is not None and not padding[b, j]:
        return False
    if window is not None and abs(i - j) >= window:
        return False
    return j <= i or not causal


AttentionInterface.register("textbook", textbook_attention)
AttentionMaskInterface.register("textbook", lambda *args, **kwargs: None)


def textbook_logits(
    stock: PreTrainedModel,
    tokens: torch.Tensor,
    slopes: list | None = None,
    padding: torch.Tensor | None = None,
    keep_positions: bool = False,
) -> torch.Tensor:
    """Logits of an unconverted model, computed as if it had textbook ALiBi. `keep_positions` is the negative control: positions stay on."""
    config = stock.config
    slopes = textbook_slopes(config.num_attention_heads) if slopes is None else slopes
    per_layer = slopes if isinstance(slopes[0], list) else [slopes] * config.num_hidden_layers
    model = copy.deepcopy(stock)
    model.set_attn_implementation("textbook")
    length = tokens.shape[1]
    if not keep_positions:
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("wpe", "embed_positions", "position_embeddings")):
                parameter.data.zero_()
    ids = torch.arange(length)[None] if keep_positions else torch.zeros(1, length, dtype=torch.long)
    for module in model.modules():
        if not keep_positions and "pos_encoding" in module._buffers:
            module.pos_encoding.zero_()
    with _setting(slopes=per_layer, padding=padding, causal="MaskedLM" not in type(stock).__name__), torch.no_grad():
        return model(
            input_ids=tokens, attention_mask=padding, position_ids=ids.expand(tokens.shape), use_cache=False
        ).logits


@contextmanager
def _setting(**values) -> Iterator[None]:
    SETTING.update(values)
    try:
        yield
    finally:
        SETTING.clear()
