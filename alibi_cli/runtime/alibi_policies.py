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
        layer = getattr(module, "layer_idx", None)
        slopes = slopes[module_index if layer is None else layer]
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
    return NoRotation(*_rotation(module, 2))


def drop_half_rotation(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """The same for families that hand on one cosine per pair instead of two equal ones."""
    return NoRotation(*_rotation(module, 1))


def _rotation(module, per_frequency):
    """(width, scaling) of a rotary embedding. Families with one set of frequencies per type of layer have the same width in all.

    The scaling is kept in the config: some kinds of rotation derive it from the maximum length, which conversion changes.
    """
    kinds = [name for name in module._buffers if name.endswith("inv_freq") and "original" not in name]
    widths = {per_frequency * module._buffers[name].numel() for name in kinds}
    scalings = {float(getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0)) for name in kinds}
    if len(widths) != 1 or len(scalings) != 1:
        raise ValueError(
            f"{type(module).__name__} rotates layers by different widths or scales, which is not supported."
        )
    if getattr(module.config, "alibi_rotary_scaling", None) is None:
        # In float32, as the stock module multiplies.
        module.config.alibi_rotary_scaling = struct.unpack("f", struct.pack("f", scalings.pop()))[0]
    return widths.pop(), module.config.alibi_rotary_scaling


class NoTable:
    """Stands where a table of positions was kept as a buffer: every row is nought. No tensor, so that nothing fills it on loading."""

    _is_hf_initialized = True

    def to(self, *args, **kwargs):
        return self

    def __getitem__(self, index):
        return torch.zeros(())


def drop_position_buffer(module: torch.nn.Module, module_index: int, max_sequence_length: int):
    """Added positions that are computed once and kept as a buffer."""
    module._buffers.pop("pos_encoding", None)
    module.pos_encoding = NoTable()
    return module


def register_family(family, prefix, positions="RotaryEmbedding", policy=drop_rotation, attention="Attention"):
    """One transformers family: `policy` takes the positions out of class prefix + positions, class prefix + attention takes the bias."""
    path = f"transformers.models.{family}.modeling_{family}."
    policy_registry.register(path + prefix + attention)(take_bias)
    policy_registry.register(path + prefix + positions)(policy)


# Rotary positions.
register_family("cohere", "Cohere")
register_family("cohere2", "Cohere2")
register_family("gemma", "Gemma")
register_family("gemma2", "Gemma2")
register_family("gemma3", "Gemma3")
register_family("glm", "Glm")
register_family("gpt_neox", "GPTNeoX")
register_family("gpt_oss", "GptOss", policy=drop_half_rotation)
register_family("granite", "Granite")
register_family("llama", "Llama")
register_family("mistral", "Mistral")
register_family("mixtral", "Mixtral")
register_family("modernbert", "ModernBert")
register_family("nemotron", "Nemotron")
register_family("olmo", "Olmo")
register_family("olmo2", "Olmo2")
register_family("olmo3", "Olmo3")
register_family("persimmon", "Persimmon")
register_family("phi", "Phi")
register_family("phi3", "Phi3")
register_family("qwen2", "Qwen2")
register_family("qwen2_moe", "Qwen2Moe")
register_family("qwen3", "Qwen3")
register_family("qwen3_moe", "Qwen3Moe")
register_family("smollm3", "SmolLM3")
register_family("stablelm", "StableLm")
register_family("starcoder2", "Starcoder2")

# A table of positions that is added, learned or sinusoidal.
register_family("biogpt", "BioGpt", "Model", drop_position_table)
register_family("gpt2", "GPT2", "Model", drop_position_table)
register_family("gpt_bigcode", "GPTBigCode", "Model", drop_position_table)
register_family("opt", "OPT", "Decoder", drop_position_table)
register_family("ctrl", "", "CTRLModel", drop_position_buffer, "MultiHeadAttention")

# Encoders with a learned table.
register_family("albert", "Albert", "Embeddings", drop_position_table_of_encoder)
register_family("bert", "Bert", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("camembert", "Camembert", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("distilbert", "", "Embeddings", drop_position_table, "DistilBertSelfAttention")
register_family("electra", "Electra", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("roberta", "Roberta", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("xlm_roberta", "XLMRoberta", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
