"""The built-in policies: how each model family gives up its positions or keeps them, and which modules take the bias.

`replace` is textbook ALiBi: the family's positions go, the bias comes. `add` keeps a rotation, or T5's relative bias, and adds the bias to
its scores. There are few mechanisms and many families. A family is one line at the bottom of this file; a mechanism is a function above it.
"""

import struct
import types
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from .alibi_attention import alibi_attention, alibi_bias
from .alibi_distances import HIDDEN, alibi_distances, distance_of
from .alibi_slopes import get_slopes, is_per_layer
from .alibi_surgery import PolicyRegistry

if TYPE_CHECKING:
    Part = Any  # a module whose attributes are its family's own
else:
    Part = torch.nn.Module

policy_registry = PolicyRegistry()  # "replace"
add = policy_registry.named("add")

# Names under which models keep the embedding of positions that they add to the embedding of tokens.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "positions_embed")

# What attention may be told besides slopes and offsets; set, because to ask a module for what it does not have is slow.
OF_ATTENTION = {"alibi_keeps_weights": False, "alibi_keeps_relative_bias": False, "alibi_watch": None}

NO_SINKS = "This model computes ALiBi itself, which knows no attention sinks: their number must be 0."
NO_TURN = "has no rotation that its attention could turn back, so it cannot have a sink_distance."


class NoPosition(torch.nn.Module):
    """Stands where positions of some width were added: adds nothing, or one learned vector, the same at every position.

    Nothing is a 0-dim zero, which broadcasts and changes neither dtype nor device of the sum.
    """

    vector: torch.nn.Parameter | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_parameter("vector", None)

    def learn_vector(self, dtype: torch.dtype, device: Any) -> None:
        """From now on add a vector, which is zero until it is trained or loaded."""
        if self.vector is None:
            self.vector = torch.nn.Parameter(torch.zeros(self.width, dtype=dtype, device=device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(()) if self.vector is None else self.vector

    __getitem__ = forward  # where positions were rows of a buffer


class NoRotation(torch.nn.Module):
    """Stands where a rotary embedding was: the identity rotation, cos = scaling and sin = 0, as (1, 1, width) each.

    `scaling` is the factor with which YaRN and its like multiply cos and sin; queries and keys must keep it.
    """

    def __init__(self, width: int, scaling: float) -> None:
        super().__init__()
        self.width, self.scaling = width, scaling

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return x.new_full((1, 1, self.width), self.scaling), x.new_zeros((1, 1, self.width))


class NoTable:
    """Stands where position embeddings were kept as a buffer: every row is zero. No tensor, so that nothing fills it on loading."""

    _is_hf_initialized = True

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.zeros(())


class SineTable(NoTable):
    """Sines and cosines of a rotation, row by row, computed when they are asked for: the stock buffer ends at a length."""

    device = None

    def __init__(self, width: int) -> None:
        self.width = width

    @property
    def inv_freq(self) -> Tensor:
        """(width / 2,), as transformers' create_sinusoidal_positions computes them"""
        return 1.0 / (10000 ** (torch.arange(0, self.width, 2, dtype=torch.int64) / self.width))

    def rows(self, count: int, device: Any) -> Tensor:
        """(count, width)"""
        angle = torch.arange(count, dtype=torch.int64).float()[:, None] * self.inv_freq.float()
        angle = angle.to(device)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.rows(int(index.max()) + 1, index.device)[index]


class NoSineTable(NoTable):
    """The same where a row holds the sines and cosines of a rotation: the identity rotation."""

    device = None

    def __init__(self, width: int) -> None:
        self.width = width

    def __getitem__(self, index: Tensor) -> Tensor:
        ones = torch.ones(*index.shape, self.width // 2, device=index.device)
        return torch.cat([torch.zeros_like(ones), ones], dim=-1)


def turns_back(answer: bool) -> Any:
    """Decorator: whether the rotation that a policy keeps can be turned back. See `can_turn_back`."""

    def note(function: Any) -> Any:
        function.turns_back = answer
        return function

    return note


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
    kwargs["attention_mask"] = alibi_bias(kwargs["attention_mask"], module.alibi_slopes, states.dtype, offsets)
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


def drop_position_table(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Added positions (learned or sinusoidal): add nothing instead."""
    changed = None
    for name in POSITION_TABLES:
        table = getattr(module, name, None)
        if isinstance(table, torch.nn.Module):
            if not isinstance(table, NoPosition):
                width: Any = table.embedding_dim
                setattr(module, name, NoPosition(width))
            changed = module
    return changed


def drop_position_table_of_encoder(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """BERT and RoBERTa: as above, and free the token types, whose default comes from a buffer of the old maximum length."""
    if getattr(module, "_alibi_token_types", None) is None:
        module._alibi_token_types = True
        module.register_forward_pre_hook(_default_token_types, with_kwargs=True)
    return drop_position_table(module, module_index, max_sequence_length)


def _default_token_types(module: Any, args: Any, kwargs: Any) -> Any:
    if len(args) < 2 and kwargs.get("token_type_ids") is None:
        ids = args[0] if args else kwargs.get("input_ids")
        shaped_like = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
        kwargs["token_type_ids"] = torch.zeros_like(shaped_like, dtype=torch.long)
    return args, kwargs


def drop_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Rotary positions: the identity rotation. The width is that of the rotated part, which may be less than the head."""
    return NoRotation(*_rotation(module, 2))


@turns_back(True)
def keep_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Rotary positions that stay; it is noted how their halves belong together."""
    module.alibi_interleaved = False
    return module


@turns_back(True)
def keep_interleaved_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The same for families that rotate neighbouring dimensions against each other."""
    module.alibi_interleaved = True
    return module


def rotates(module: Any) -> bool:
    """False for attention that leaves its queries and keys unrotated: some layers of SmolLM 3, and those of Cohere 2 without a window."""
    if module.config.model_type.endswith("cohere2"):
        return module.sliding_window is not None
    return bool(getattr(module, "use_rope", True))


def can_turn_back(functions: Any) -> bool:
    """True if, among the functions of a policy that reach a model, one keeps a rotation that can be turned back, and none gives the bias to
    attention that computes its scores elsewhere: see `alibi_sink_distance`. A function says so by its attribute `turns_back`."""
    said = {getattr(function, "turns_back", None) for function in functions}
    return True in said and False not in said


def drop_half_rotation(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """The same for families that hand on one cosine per pair instead of two equal ones."""
    return NoRotation(*_rotation(module, 1))


def _rotation(module: Any, per_frequency: int) -> tuple[int, float]:
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


def share_config(module: Part, module_index: int, max_sequence_length: int) -> None:
    """Attention modules that keep no config get their model's: it holds the slopes. (A model is visited before its parts.)"""
    for part in module.modules():
        if type(part).__name__.endswith("Attention") and not hasattr(part, "config"):
            part.config = module.config


def drop_position_table_and_share_config(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """XGLM: both."""
    share_config(module, module_index, max_sequence_length)
    return drop_position_table(module, module_index, max_sequence_length)


def drop_position_buffer(module: Part, module_index: int, max_sequence_length: int) -> Any:
    """Added positions that are computed once and kept as a buffer."""
    table = module._buffers.pop("pos_encoding", None)
    if table is not None:
        module.pos_encoding = NoPosition(table.shape[-1])
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
        module._get_embed_positions = types.MethodType(_all_sines, module)
    return take_bias_in_attn(module, module_index, max_sequence_length)


def _all_sines(self: Any, position_ids: Tensor) -> Any:
    """(B, positions so far, width)"""
    rows = self.embed_positions.rows(int(position_ids.max()) + 1, position_ids.device)
    return rows.expand(len(position_ids), -1, -1)


def register_family(
    family: str,
    prefix: str,
    positions: str = "RotaryEmbedding",
    policy: Any = drop_rotation,
    attention: str = "Attention",
    bias: Any = take_bias,
    interleaved: bool = False,
) -> None:
    """One transformers family: `policy` takes the positions out of classes prefix + positions, class prefix + attention takes the bias.
    A rotation, which has no end, may stay."""
    path = f"transformers.models.{family}.modeling_{family}."
    policy_registry.register(path + prefix + attention)(bias)
    policy_registry.register(*(path + prefix + name for name in positions.split()))(policy)
    if policy in (drop_rotation, drop_half_rotation):
        add.register(path + prefix + attention)(bias)
        add.register(path + prefix + positions)(keep_interleaved_rotation if interleaved else keep_rotation)


# Rotary positions.
register_family("cohere", "Cohere", interleaved=True)
register_family("cohere2", "Cohere2", interleaved=True)
register_family("gemma", "Gemma")
register_family("gemma2", "Gemma2")
register_family("gemma3", "Gemma3")
register_family("glm", "Glm", interleaved=True)
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

register_family("falcon", "Falcon", bias=take_bias_as_mask)
policy_registry.register("transformers.models.gptj.modeling_gptj.GPTJAttention")(drop_sine_buffer)
policy_registry.register("transformers.models.codegen.modeling_codegen.CodeGenModel")(share_config)
policy_registry.register("transformers.models.codegen.modeling_codegen.CodeGenAttention")(drop_sine_buffer)
add.register("transformers.models.gptj.modeling_gptj.GPTJAttention")(keep_sine_buffer)
add.register("transformers.models.codegen.modeling_codegen.CodeGenModel")(share_config)
add.register("transformers.models.codegen.modeling_codegen.CodeGenAttention")(keep_sine_buffer)

# Absolute position embeddings that are added, learned or sinusoidal.
register_family("biogpt", "BioGpt", "Model", drop_position_table)
register_family("gpt2", "GPT2", "Model", drop_position_table)
register_family("gpt_bigcode", "GPTBigCode", "Model", drop_position_table)
register_family("opt", "OPT", "Decoder", drop_position_table)
register_family("gpt_neo", "GPTNeo", "Model", drop_position_table, "SelfAttention", take_bias_in_attn)
register_family("xglm", "XGLM", "Model", drop_position_table_and_share_config, bias=take_bias_in_xglm)
policy_registry.register("transformers.models.openai.modeling_openai.OpenAIGPTModel")(take_bias_in_openai_gpt)
register_family("ctrl", "", "CTRLModel", drop_position_buffer, "MultiHeadAttention")

# Encoders with learned position embeddings.
register_family("albert", "Albert", "Embeddings", drop_position_table_of_encoder)
register_family("bert", "Bert", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("camembert", "Camembert", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("distilbert", "", "Embeddings", drop_position_table, "DistilBertSelfAttention")
register_family("electra", "Electra", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("roberta", "Roberta", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("xlm_roberta", "XLMRoberta", "Embeddings", drop_position_table_of_encoder, "SelfAttention")
register_family("esm", "Esm", "RotaryEmbedding", drop_rotation, "SelfAttention")

# Encoder-decoders: both stacks, and not the attention between them.
register_family("bart", "Bart", "Encoder Decoder", drop_position_table)
register_family("marian", "Marian", "Encoder Decoder", drop_position_table)
policy_registry.register("transformers.models.t5.modeling_t5.T5LayerSelfAttention")(drop_relative_bias)
add.register("transformers.models.t5.modeling_t5.T5LayerSelfAttention")(keep_relative_bias)

# ALiBi already: only the slopes change.
register_family("bloom", "Bloom", "Model", share_config_of_own_bias, bias=rescale_own_bias)
register_family("mpt", "Mpt", "Model", share_config_of_own_bias, bias=rescale_own_bias)
