"""The built-in policies: how each model family gives up its positions, and which modules take the bias.

There are few mechanisms and many families. A family is one line at the bottom of this file; a mechanism is a function above it.
"""

import struct

import torch

from .alibi_surgery import PolicyRegistry

policy_registry = PolicyRegistry()

# Names under which models keep the embedding of positions that they add to the embedding of tokens.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings")


class NoPosition(torch.nn.Module):
    """Stands where a position embedding was added. A 0-dim zero broadcasts and changes neither dtype nor device of the sum."""

    def forward(self, *args, **kwargs):
        return torch.zeros(())


class NoRotation(torch.nn.Module):
    """Stands where a rotary embedding was: the rotation by nought, cos = scaling and sin = 0, as (1, 1, width) each.

    `scaling` is the factor with which YaRN and its like multiply cos and sin; queries and keys must keep it.
    """

    def __init__(self, width, scaling):
        super().__init__()
        self.width, self.scaling = width, scaling

    def forward(self, x, *args, **kwargs):
        return x.new_full((1, 1, self.width), self.scaling), x.new_zeros((1, 1, self.width))


def take_bias(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """Self-attention: give the module the slopes of its layer. Cross-attention has no distances and is left alone."""
    if getattr(module, "is_cross_attention", False):
        return None
    slopes = module.config.alibi_slopes
    if isinstance(slopes[0], (list, tuple)):
        layer = module_index if getattr(module, "layer_idx", None) is None else module.layer_idx
        slopes = slopes[layer]
    module.alibi_slopes = [float(slope) for slope in slopes]
    return module


def drop_position_table(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """Added positions (learned or sinusoidal table): add nothing instead."""
    changed = None
    for name in POSITION_TABLES:
        if isinstance(getattr(module, name, None), torch.nn.Module):
            setattr(module, name, NoPosition())
            changed = module
    return changed


def drop_position_table_of_encoder(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """BERT and RoBERTa: as above, and free the token types, whose default comes from a buffer of the old maximum length."""
    if getattr(module, "_alibi_token_types", None) is None:
        module._alibi_token_types = True
        module.register_forward_pre_hook(_default_token_types, with_kwargs=True)
    return drop_position_table(module, module_index, max_sequence_length)


def _default_token_types(module, args, kwargs):
    if len(args) < 2 and kwargs.get("token_type_ids") is None:
        ids = args[0] if args else kwargs.get("input_ids")
        shaped_like = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
        kwargs["token_type_ids"] = torch.zeros_like(shaped_like, dtype=torch.long)
    return args, kwargs


def drop_rotation(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """Rotary positions: rotate by nought. The width is that of the rotated part, which may be less than the head."""
    scaling = struct.unpack("f", struct.pack("f", module.attention_scaling))[
        0
    ]  # the stock module multiplies in float32
    return NoRotation(2 * module.inv_freq.numel(), scaling)


def register_family(family, attention, positions, policy):
    """One transformers family: its self-attention class takes the bias, `policy` takes the positions out of class `positions`."""
    path = f"transformers.models.{family}.modeling_{family}."
    policy_registry.register(path + attention)(take_bias)
    policy_registry.register(path + positions)(policy)


register_family("gpt2", "GPT2Attention", "GPT2Model", drop_position_table)
register_family("opt", "OPTAttention", "OPTDecoder", drop_position_table)
register_family("gpt_neox", "GPTNeoXAttention", "GPTNeoXRotaryEmbedding", drop_rotation)
register_family("llama", "LlamaAttention", "LlamaRotaryEmbedding", drop_rotation)
register_family("mistral", "MistralAttention", "MistralRotaryEmbedding", drop_rotation)
register_family("qwen2", "Qwen2Attention", "Qwen2RotaryEmbedding", drop_rotation)
register_family("qwen3", "Qwen3Attention", "Qwen3RotaryEmbedding", drop_rotation)
register_family("phi", "PhiAttention", "PhiRotaryEmbedding", drop_rotation)
register_family("gemma", "GemmaAttention", "GemmaRotaryEmbedding", drop_rotation)
register_family("bert", "BertSelfAttention", "BertEmbeddings", drop_position_table_of_encoder)
register_family("roberta", "RobertaSelfAttention", "RobertaEmbeddings", drop_position_table_of_encoder)
