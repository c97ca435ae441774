"""Attention modules: how those of each family take the bias.

Most call transformers' attention interface, and all that they need is the slopes of their layer (`take_bias`). The others compute their
scores in a method of their own, which is replaced, or add whatever mask they are given.
"""

import types
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from .alibi_attention import alibi_attention, alibi_bias
from .alibi_distances import HIDDEN, alibi_distances, distance_of
from .alibi_positions import NoSineTable, NoTable, SineTable, drop_position_table, share_config, turns_back
from .alibi_slopes import get_slopes, is_per_layer

if TYPE_CHECKING:
    Part = Any  # a module whose attributes are its family's own
else:
    Part = torch.nn.Module

# What attention may be told besides slopes and offsets; set, because to ask a module for what it does not have is slow.
OF_ATTENTION = {"alibi_keeps_weights": False, "alibi_keeps_relative_bias": False, "alibi_watch": None}

NO_SINKS = "This model computes ALiBi itself, which knows no attention sinks: their number must be 0."


def take_bias(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Self-attention: give the module the slopes of its layer. Cross-attention has no distances and is left alone."""
    between_stacks = getattr(module, "is_decoder", False) and not getattr(module, "is_causal", True)
    if getattr(module, "is_cross_attention", between_stacks):
        return None
    for name, default in OF_ATTENTION.items():
        if name not in vars(module):
            setattr(module, name, default)
    for name in ("alibi_slopes", "alibi_offsets"):
        values = getattr(module.config, name, None)
        setattr(module, name, None if values is None else _of_layer(values, module, module_index))
    return module


def _of_layer(values: Any, module: Any, module_index: Any) -> Any:
    """The list of a module's layer, of one list for all layers or one per layer."""
    if is_per_layer(values):
        layer = getattr(module, "layer_idx", None)
        values = values[module_index if layer is None else layer]
    if getattr(module, "num_heads", len(values)) != len(values):
        raise ValueError(f"A {type(module).__name__} has {module.num_heads} heads; there are {len(values)} slopes.")
    return [float(value) for value in values]


def take_bias_in_attn(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Self-attention that transformers' attention interface does not reach, but whose scores are computed in a method of their own:
    replace that method. A buffer of causal masks, which the method used, goes with it."""
    if module._buffers.pop("bias", None) is not None:
        module.bias = NoTable()
        module._is_hf_initialized = True  # nothing is left that its initialisation could fill
    module._attn = types.MethodType(_attn, module)
    return take_bias(module, module_index, max_sequence_length)


def _attn(self: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """(B, H, Q, D) queries and (B, H, K, D) keys and values -> (B, H, Q, D), None"""
    window = getattr(self.config, "window_size", None)
    if window is not None and self.attention_type == "local":
        attention_mask = attention_mask.masked_fill(distance_of(attention_mask) < -window, HIDDEN)  # -1 - distance
    scaling = 1 / self.scale_attn if hasattr(self, "scale_attn") else 1.0
    dropout = self.attn_dropout.p if self.training else 0.0
    query, key = query.to(value.dtype), key.to(value.dtype)  # CodeGen's rotation makes queries of 16 bits float32
    output, weights = alibi_attention(self, query, key, value, attention_mask, scaling=scaling, dropout=dropout)
    return output.transpose(1, 2), weights


@turns_back(False)
def take_bias_as_mask(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Self-attention that the attention interface does not reach and that adds the mask to its scores: give it the bias as its mask."""
    if getattr(module.config, "alibi", False):
        raise ValueError(
            "This model has ALiBi already, of a kind of its own (divided by the square root of the head width)."
        )
    if not hasattr(module, "alibi_slopes"):
        module.register_forward_pre_hook(_distances_to_bias, with_kwargs=True)
    return take_bias(module, module_index, max_sequence_length)


def _distances_to_bias(module: Any, args: Any, kwargs: Any) -> Any:
    states = args[0] if args else kwargs["hidden_states"]
    offsets = getattr(module, "alibi_offsets", None)
    bias = alibi_bias(kwargs["attention_mask"], module.alibi_slopes, states.dtype, offsets)
    # With half of the lowest value, scores added to it stay finite in float16: padding, which sees nothing, does not become NaN.
    kwargs["attention_mask"] = bias.clamp_min(torch.finfo(bias.dtype).min / 2)
    return args, kwargs


def rescale_own_bias(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """BLOOM and MPT have ALiBi already, with Press et al.'s slopes: each head's bias is multiplied by the ratio of the config's slope to
    that. Masks, cache and attention stay the family's own."""
    if getattr(module.config, "alibi_sinks", None):
        raise ValueError(NO_SINKS)
    take_bias(module, module_index, max_sequence_length)
    if not getattr(module, "alibi_own_bias", False):
        module.alibi_own_bias = True
        module.register_forward_pre_hook(_rescale, with_kwargs=True)
    return module


def _rescale(module: Any, args: Any, kwargs: Any) -> Any:
    name = "alibi" if "alibi" in kwargs else "position_bias"  # (B * H, 1, K) or (H, 1, K)
    own = kwargs[name]
    heads = len(module.alibi_slopes)
    slopes = torch.as_tensor(module.alibi_slopes, dtype=torch.float64, device=own.device)
    ratios = (slopes / slopes.new_tensor(get_slopes(heads))).to(own.dtype).repeat(own.shape[0] // heads)
    kwargs[name] = own * ratios[:, None, None]
    return args, kwargs


def share_config_of_own_bias(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """BLOOM and MPT: there are no positions to remove."""
    share_config(module, module_index, max_sequence_length)
    return module


def take_bias_in_xglm(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """XGLM checks that its mask has one head, so its self-attention is replaced whole."""
    if module.config.add_cross_attention:
        raise ValueError("XGLM with cross-attention is not supported.")
    module.forward = types.MethodType(_xglm_forward, module)
    return take_bias(module, module_index, max_sequence_length)


def _xglm_forward(
    self: Any,
    hidden_states: Tensor,
    key_value_states: Any = None,
    past_key_values: Any = None,
    attention_mask: Any = None,
    **kwargs: Any,
) -> Any:
    batch, length, _ = hidden_states.shape
    projections = (self.q_proj, self.k_proj, self.v_proj)
    query, key, value = (p(hidden_states).view(batch, length, self.num_heads, -1).transpose(1, 2) for p in projections)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    dropout = self.dropout if self.training else 0.0
    output, weights = alibi_attention(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout)
    return self.out_proj(output.reshape(batch, length, -1)), weights


def take_bias_in_openai_gpt(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The first GPT builds no mask that knows distances and has no cache: each attention makes its own distances."""
    for layer, block in enumerate(module.h):
        attention = block.attn
        attention.config, attention.num_heads = module.config, attention.n_head
        attention._buffers.pop("bias", None)
        attention._attn = types.MethodType(_openai_attn, attention)
        take_bias(attention, layer, max_sequence_length)
    return drop_position_table(module, module_index, max_sequence_length) or module


def _openai_attn(
    self: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Any = None, output_attentions: bool = False
) -> Any:
    """q, v (B, H, Q, D), k (B, H, D, K), additive padding mask (B, 1, 1, K) -> [(B, H, Q, D)]"""
    token = None if attention_mask is None else attention_mask.expand(len(q), -1, -1, -1)[:, 0, 0] == 0  # (B, K)
    length = v.shape[-2]
    distances = alibi_distances(len(q), length, length, attention_mask=token, device=q.device, config=self.config)
    scaling = None if self.scale else 1.0
    dropout = self.attn_dropout.p if self.training else 0.0
    output, weights = alibi_attention(self, q, k.transpose(-1, -2), v, distances, scaling=scaling, dropout=dropout)
    return [output.transpose(1, 2), weights]


def _check_t5() -> None:
    """Raises ValueError where a converted T5 would compute something else: before version 5.20 its logits differ from the reference."""
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 20):
        raise ValueError(f"A converted T5 needs transformers 5.20 or newer; this is {transformers.__version__}.")


def drop_relative_bias(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """T5: the self-attention of a layer takes the bias instead of a learned bias per bucket of distances."""
    _check_t5()
    attention = module.SelfAttention
    attention.has_relative_attention_bias = False
    attention._modules.pop("relative_attention_bias", None)
    take_bias(attention, module_index, max_sequence_length)
    return module


def keep_relative_bias(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """T5: the self-attention of a layer takes the bias beside its learned bias per bucket of distances."""
    _check_t5()
    module.SelfAttention.alibi_keeps_relative_bias = True
    take_bias(module.SelfAttention, module_index, max_sequence_length)
    return module


def drop_sine_buffer(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Rotary positions whose sines and cosines every attention module keeps as a buffer; the module takes the bias as well."""
    table = module._buffers.pop("embed_positions", None)
    if table is not None:
        module.embed_positions = NoSineTable(table.shape[-1])
    if hasattr(module, "_get_embed_positions"):
        module._get_embed_positions = types.MethodType(_sines_at_any_position, module)
    return take_bias_in_attn(module, module_index, max_sequence_length)


def _sines_at_any_position(self: Any, position_ids: Tensor) -> Any:
    """(B, any length, width): one row, as often as it is asked for, without the memory."""
    row = self.embed_positions[position_ids[:, :1]]  # (B, 1, width)
    return row.expand(-1, 1 << 30, -1)


@turns_back(True)
def keep_sine_buffer(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The rotation of the same modules goes on beyond their buffer, and they take the bias as well."""
    table = module._buffers.pop("embed_positions", None)
    if table is not None:
        module.embed_positions = SineTable(table.shape[-1])
        module.alibi_rotation = module.embed_positions, True
        if hasattr(module, "_get_embed_positions"):
            module.alibi_sines = None
            module.register_forward_pre_hook(_count_sines, with_kwargs=True)
            module._get_embed_positions = types.MethodType(_counted_sines, module)
    return take_bias_in_attn(module, module_index, max_sequence_length)


def _count_sines(module: Any, args: Any, kwargs: Any) -> Any:
    """GPT-J takes rows out of all that there are, by their positions: it gets those of the positions that are asked for, and takes them in
    order. So none are computed in vain, and how many there are need not be known."""
    positions = kwargs["position_ids"]  # (B, Q)
    module.alibi_sines = module.embed_positions[positions]
    kwargs["position_ids"] = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    return args, kwargs


def _counted_sines(self: Any, position_ids: Tensor) -> Any:
    """(B, Q, width)"""
    rows, self.alibi_sines = self.alibi_sines, None
    return rows
