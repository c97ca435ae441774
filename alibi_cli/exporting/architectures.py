"""Which families a stock llama.cpp can run with ALiBi, and as what. A family is one line at the bottom of this file.

llama.cpp has four architectures with ALiBi and a causal head. What follows is read from its src/models/*.cpp; docs/engines.md has the runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """max_bias: what llama.cpp has built in; None where the file says it. any_head_width: the heads need not fill the model's width.
    gelu: its activation, which llama.cpp takes from a table in half precision on CPUs."""

    name: str
    max_bias: float | None
    any_head_width: bool = False
    gelu: bool = False


REFACT = Architecture(
    "refact", 8.0, any_head_width=True
)  # RMSNorm, SiLU(gate) * up; q, k, v apart, with biases or without
MPT = Architecture("mpt", None, gelu=True)  # LayerNorm, GELU; every bias optional
JAIS = Architecture(
    "jais", None
)  # LayerNorm, SiLU(gate) * up; every bias required, and scores / D in place of scores / sqrt(D)
BLOOM = Architecture("bloom", 8.0, gelu=True)  # as MPT, every bias required, and a LayerNorm on the embedding


@dataclass(frozen=True)
class Layout:
    """Names of a family's tensors, without ".weight" and ".bias".

    base: in front of all but the head; left out where a base model was saved. qkv: three names, or one for a fused matrix, whose rows are
    all queries, all keys, all values, or (by_head) those of head after head. gate: None where there is one matrix up only. gate_up: gate
    and up are one matrix. transposed: matrices are (in, out).
    """

    base: str = "model."
    layer: str = "layers.{}."
    embedding: str = "embed_tokens"
    embedding_norm: str | None = None
    output_norm: str = "norm"
    attention_norm: str = "input_layernorm"
    ffn_norm: str = "post_attention_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    by_head: bool = False
    attention_output: str = "self_attn.o_proj"
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    gate_up: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Factors:
    """Numbers that a family multiplies with, and that the file has in its weights. query: for one layer, beside 1/sqrt(D). branch: what
    attention and feed-forward add is multiplied by it. norm: added to normalisation weights."""

    embedding: float = 1.0
    output: float = 1.0
    query: Callable[[int], float] = lambda layer: 1.0
    branch: float = 1.0
    norm: float = 0.0


@dataclass(frozen=True)
class Family:
    """activation: what the config must say, or, where it says nothing, what the family has ("erf": the exact GELU). eps: of its norms: the
    name of a key of the config, or the number."""

    architecture: Architecture
    layout: Layout
    activation: str = "silu"
    eps: str | float = "rms_norm_eps"
    factors: Callable[[Any], Factors] = lambda config: Factors()


def factors_of_gpt2(config: Any) -> Factors:
    width = config.hidden_size // config.num_attention_heads
    plain = 1.0 if getattr(config, "scale_attn_weights", True) else width**0.5
    by_layer = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    return Factors(query=lambda layer: plain / (layer + 1) if by_layer else plain)


def factors_of_granite(config: Any) -> Factors:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query = config.attention_multiplier * width**0.5
    return Factors(
        config.embedding_multiplier, 1 / config.logits_scaling, lambda layer: query, config.residual_multiplier
    )


def factors_of_mpt(config: Any) -> Factors:
    width = config.hidden_size // config.num_attention_heads
    scale = config.attn_config.softmax_scale
    return Factors(query=lambda layer: 1.0 if scale is None else scale * width**0.5)


def scaled_embedding(config: Any) -> Factors:
    return Factors(embedding=config.hidden_size**0.5 if config.scale_embedding else 1.0)


def unscaled_scores(config: Any) -> Factors:
    return Factors(query=lambda layer: (config.hidden_size // config.num_attention_heads) ** 0.5)


def one_plus_norm(config: Any) -> Factors:
    return Factors(norm=1.0)


LLAMA = Layout()
FUSED_GATE = replace(LLAMA, gate=None, up="mlp.gate_up_proj", gate_up=True)
GPT2 = Layout("transformer.", "h.{}.", "wte", None, "ln_f", "ln_1", "ln_2", ("attn.c_attn",), False, "attn.c_proj", None, "mlp.c_fc",
              "mlp.c_proj")  # fmt: skip
FAIRSEQ = Layout(output_norm="layer_norm", attention_norm="self_attn_layer_norm", ffn_norm="final_layer_norm",
                 attention_output="self_attn.out_proj", gate=None, up="fc1", down="fc2")  # fmt: skip
BY_HEAD = Layout("transformer.", "h.{}.", "word_embeddings", "word_embeddings_layernorm", "ln_f", qkv=("self_attention.query_key_value",),
                 by_head=True, attention_output="self_attention.dense", gate=None, up="mlp.dense_h_to_4h",
                 down="mlp.dense_4h_to_h")  # fmt: skip

FAMILIES = {
    "llama": Family(REFACT, LLAMA),
    "mistral": Family(REFACT, LLAMA),
    "qwen2": Family(REFACT, LLAMA),
    "smollm3": Family(REFACT, LLAMA),
    "granite": Family(REFACT, LLAMA, factors=factors_of_granite),
    "phi3": Family(REFACT, replace(FUSED_GATE, qkv=("self_attn.qkv_proj",))),
    "glm": Family(REFACT, FUSED_GATE),
    "gpt2": Family(MPT, replace(GPT2, transposed=True), "gelu", "layer_norm_epsilon", factors_of_gpt2),
    "gpt_bigcode": Family(MPT, GPT2, "gelu", "layer_norm_epsilon", factors_of_gpt2),
    "gpt_neo": Family(
        MPT,
        replace(GPT2, qkv=tuple(f"attn.attention.{x}_proj" for x in "qkv"), attention_output="attn.attention.out_proj"),
        "gelu",
        "layer_norm_epsilon",
        unscaled_scores,
    ),
    "gpt_neox": Family(
        MPT,
        replace(
            BY_HEAD,
            base="gpt_neox.",
            layer="layers.{}.",
            embedding="embed_in",
            embedding_norm=None,
            output_norm="final_layer_norm",
            qkv=("attention.query_key_value",),
            attention_output="attention.dense",
        ),
        "gelu",
        "layer_norm_eps",
    ),
    "starcoder2": Family(MPT, replace(LLAMA, gate=None, up="mlp.c_fc", down="mlp.c_proj"), "gelu", "norm_epsilon"),
    "mpt": Family(
        MPT,
        Layout("transformer.", "blocks.{}.", "wte", None, "norm_f", "norm_1", "norm_2", ("attn.Wqkv",), False, "attn.out_proj", None,
               "ffn.up_proj", "ffn.down_proj"),
        "erf",
        "layer_norm_epsilon",
        factors_of_mpt,
    ),
    "biogpt": Family(MPT, replace(FAIRSEQ, base="biogpt."), "gelu", 1e-5, scaled_embedding),
    "xglm": Family(MPT, FAIRSEQ, "gelu", 1e-5, scaled_embedding),
    "stablelm": Family(JAIS, LLAMA, eps="layer_norm_eps"),
    "olmo": Family(JAIS, LLAMA, eps=1e-5),
    "opt": Family(JAIS, replace(FAIRSEQ, base="model.decoder.", output_norm="final_layer_norm"), "relu", 1e-5),
    "nemotron": Family(JAIS, replace(LLAMA, gate=None), "relu2", "norm_eps", one_plus_norm),
    "bloom": Family(BLOOM, BY_HEAD, "gelu", "layer_norm_epsilon"),
}  # fmt: skip
