"""Textbook ALiBi, written a second time and by other means than the product's.

The product rewrites modules. Here nothing is rewritten: a stock model gets zeros in its position embeddings and position id 0 for every
token (the identity rotation), and its attention is computed by loops over queries in float64 from the definition,

    out_i = sum_j softmax_j( scaling * q_i.k_j - m_h |i - j| ) v_j,   j visible to i,

ignoring whatever mask the model built. Only the stock modelling code outside the attention is shared. Under the policy `add` the model
keeps its tables, its position ids and, if it is a T5, its relative bias. With offsets, max(0, |i - j| - o_h) stands for |i - j|; the first
tokens of a row, as many as there are sinks, are at distance 0 from every query. With a sink distance R, a query more than R positions after
the first sink meets sinks as if it stood R positions after it: the family's own function rotates it once more, with the cosines and sines
of that position.
"""

import copy
import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions

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
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    kind = SETTING["kinds"][id(module)]
    turned = SETTING.pop("turned", None)  # by the rotation that this layer has just made, if it has made one
    slopes = np.array(SETTING["slopes"][getattr(module, "layer_idx", None) or 0])[:, None] * (kind != "cross")
    softcap, learned, bias = (kwargs.get(name) for name in ("softcap", "s_aux", "position_bias"))
    sink = np.full((heads, 1), -np.inf) if learned is None else learned.detach().double().numpy().reshape(heads, 1)
    out = np.zeros((batch, queries, heads, v.shape[-1]))
    for b in range(batch):
        is_sink = _is_sink(kind, b, k.shape[2])
        for i in range(queries):
            visible = _visible(kind, kwargs.get("sliding_window"), b, i, k.shape[2])
            if not len(visible):
                continue  # a padded query: its output is read by nobody
            sinks = is_sink[visible]
            near = _near(visible[sinks], i)
            scores = scale * np.einsum("hd,hkd->hk", q[b, :, i], k[b][:, visible])
            if turned is not None and near < i:
                width, as_near = turned(near)
                moved = np.concatenate([as_near[b, :, i], q[b, :, i, width:]], axis=-1)
                scores[:, sinks] = scale * np.einsum("hd,hkd->hk", moved, k[b][:, visible[sinks]])
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            if SETTING["adds"] and bias is not None:
                scores += bias.detach().double().numpy()[0, :, i][:, visible]
            scores -= slopes * _distance(sinks, i, visible)
            top = np.maximum(scores.max(-1, keepdims=True), sink)
            weights = np.exp(scores - top)
            weights /= weights.sum(-1, keepdims=True) + np.exp(sink - top)
            out[b, i] = np.einsum("hk,hkd->hd", weights, v[b][:, visible])
    return torch.from_numpy(out).to(query.dtype), None


def _distance(is_sink: np.ndarray, i: int, keys: np.ndarray) -> np.ndarray:
    """(H, K) from query i."""
    return np.where(is_sink, 0.0, np.maximum(0.0, np.abs(i - keys) - np.array(SETTING["offsets"])[:, None]))


def _is_sink(kind: str, b: int, keys: int) -> np.ndarray:
    """(K,) bool"""
    padding, two_stacks = SETTING["padding"], kind == "causal" and SETTING["two stacks"]
    token = np.ones(keys, dtype=int) if padding is None or two_stacks else padding[b]  # padding is no token
    return np.cumsum(token) - token < SETTING["sinks"]


def _near(sinks: np.ndarray, i: int) -> int:
    """The position from which query i meets the sinks that it sees."""
    return min(i, int(sinks[0]) + SETTING["sink distance"]) if len(sinks) and SETTING["sink distance"] else i


def _visible(kind: str, window: int | None, b: int, i: int, keys: int) -> np.ndarray:
    """The keys that query i sees."""
    padding, j = SETTING["padding"], np.arange(keys)
    sees = j <= i if kind == "causal" else j >= 0
    if padding is not None and not (kind == "causal" and SETTING["two stacks"]):
        sees &= padding[b] > 0
    return j[sees & (np.abs(i - j) < window)] if window is not None else j[sees]


AttentionInterface.register("textbook", textbook_attention)
AttentionMaskInterface.register("textbook", lambda *args, **kwargs: None)


def textbook_logits(
    stock: PreTrainedModel,
    tokens: torch.Tensor,
    slopes: list | None = None,
    padding: torch.Tensor | None = None,
    keep_positions: bool = False,
    sinks: int = 0,
    offsets: list | None = None,
    sink_distance: int | None = None,
    **inputs,
) -> torch.Tensor:
    """Logits of an unconverted model, computed as if it had textbook ALiBi. keep_positions: policy `add`, and a negative control of
    `replace`."""
    config = stock.config
    slopes = textbook_slopes(config.num_attention_heads) if slopes is None else slopes
    per_layer = slopes if isinstance(slopes[0], list) else [slopes] * config.num_hidden_layers
    model = copy.deepcopy(stock)
    _reach(model)
    length = tokens.shape[1]
    if not keep_positions:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if any(
                part in name
                for part in ("wpe", "embed_positions.weight", "position_embeddings", "positions_embed", "pos_encoding")
            ):
                tensor.data.zero_()
    for module in model.modules():
        if "embed_positions" in module._buffers:  # GPT-J's and CodeGen's: float32 in every model that was loaded
            module.embed_positions = create_sinusoidal_positions(*module.embed_positions.shape)
    if not config.is_encoder_decoder:
        ids = torch.arange(length)[None] if keep_positions else torch.zeros(1, length, dtype=torch.long)
        inputs["position_ids"] = ids.expand(tokens.shape)
    kinds = {id(module): _kind(name, stock) for name, module in model.named_modules()}
    of_heads = {
        "sinks": sinks,
        "sink distance": sink_distance,
        "offsets": offsets or [0.0] * config.num_attention_heads,
        "adds": keep_positions,
    }
    mask = None if padding is None else padding.numpy()
    setting = _setting(slopes=per_layer, padding=mask, kinds=kinds, **of_heads)
    with setting, _rotations_kept(sys.modules[type(model).__module__]), torch.no_grad():
        SETTING["two stacks"] = config.is_encoder_decoder
        return model(input_ids=tokens, attention_mask=padding, use_cache=False, **inputs).logits


def _kind(name: str, model: PreTrainedModel) -> str:
    """What a module's attention may see, from its name: the other stack, both sides, or the past."""
    if "encoder_attn" in name or "EncDecAttention" in name:
        return "cross"
    both = (
        name.startswith(("model.encoder", "encoder"))
        if model.config.is_encoder_decoder
        else "MaskedLM" in type(model).__name__
    )
    return "both" if both else "causal"


def _reach(model: PreTrainedModel) -> None:
    """Leads every attention of the model to the textbook's: by the attention interface, or, for families that do not use it, through the
    one method or module that computes scores."""
    family = model.config.model_type
    if family in ("gpt_neo", "gptj", "codegen", "openai-gpt"):
        for module in model.modules():
            if hasattr(module, "_attn"):
                module._attn = types.MethodType(_openai_attn if family == "openai-gpt" else _own_attn, module)
    elif (
        family == "falcon"
    ):  # adds any mask to its scores; a mask of one float per head, query and key is the bias itself
        for module in model.modules():
            if type(module).__name__ == "FalconAttention":
                module.register_forward_pre_hook(_falcon_mask, with_kwargs=True)
        model.set_attn_implementation("eager")
    elif family == "xglm":
        for module in model.modules():
            if type(module).__name__ == "XGLMAttention":
                module.forward = types.MethodType(_xglm_forward, module)
    else:
        model.set_attn_implementation("textbook")


def _own_attn(self, query, key, value, attention_mask=None, **kwargs):
    window = self.config.window_size if getattr(self, "attention_type", None) == "local" else None
    scaling = 1.0 if type(self).__name__.startswith("GPTNeo") else query.shape[-1] ** -0.5
    out, _ = textbook_attention(self, query, key, value, None, scaling=scaling, sliding_window=window)
    return out.transpose(1, 2), None


def _openai_attn(self, q, k, v, attention_mask=None, output_attentions=False):
    return [textbook_attention(self, q, k.transpose(-1, -2), v, None)[0].transpose(1, 2)]


def _falcon_mask(module, args, kwargs):
    (batch, length, _), heads = args[0].shape, module.num_heads
    bias = np.full((batch, heads, length, length), torch.finfo(torch.float64).min)
    slopes = np.array(SETTING["slopes"][0])[:, None]
    for b, i in np.ndindex(batch, length):
        visible = _visible("causal", None, b, i, length)
        distance = _distance(_is_sink("causal", b, length)[visible], i, visible)
        bias[b, :, i, visible] = -(slopes * distance).T
    kwargs["attention_mask"] = torch.from_numpy(bias)
    return args, kwargs


def _xglm_forward(self, hidden_states, **kwargs):
    split = [
        p(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        for p in (self.q_proj, self.k_proj, self.v_proj)
    ]
    return self.out_proj(textbook_attention(self, *split, None)[0].flatten(2)), None


@contextmanager
def _rotations_kept(modeling: types.ModuleType) -> Iterator[None]:
    """Keeps of every rotation of queries, for the attention that follows it, how they would be turned at another position: position ->
    (width of what is rotated, queries (B, H, Q, width))."""
    rotate = getattr(modeling, "apply_rotary_pos_emb", None)

    rows_of_its_own = (
        "gptj" in modeling.__name__ or "codegen" in modeling.__name__
    )  # (B, Q, H, width); queries after keys

    def keeping(query, *rest, **options):
        def turned(at):
            moved = [x[:, [at]].expand_as(x) for x in (rest if rows_of_its_own else rest[1:3])]
            again = (
                rotate(query, *moved) if rows_of_its_own else rotate(query, rest[0], *moved, *rest[3:], **options)[0]
            )
            again = again.transpose(1, 2) if rows_of_its_own else again
            return query.shape[-1], again.detach().double().numpy()

        SETTING["turned"] = turned
        return rotate(query, *rest, **options)

    if rotate is not None:
        modeling.apply_rotary_pos_emb = keeping
    try:
        yield
    finally:
        if rotate is not None:
            modeling.apply_rotary_pos_emb = rotate


@contextmanager
def _setting(**values) -> Iterator[None]:
    SETTING.update(values)
    try:
        yield
    finally:
        SETTING.clear()
