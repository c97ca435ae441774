"""The built-in policies: which function takes the positions out of each family, or keeps them, and which gives its attention the bias.

`replace` is textbook ALiBi: the family's positions go, the bias comes. `add` keeps a rotation, or T5's relative bias, and adds the bias to
its scores. There are few functions (alibi_positions.py, alibi_modules.py) and many families; a family is one line here.
"""

from typing import Any

from .alibi_modules import (
    drop_relative_bias,
    drop_sine_buffer,
    keep_relative_bias,
    keep_sine_buffer,
    rescale_own_bias,
    share_config_of_own_bias,
    take_bias,
    take_bias_as_mask,
    take_bias_in_attn,
    take_bias_in_openai_gpt,
    take_bias_in_xglm,
)
from .alibi_positions import (
    drop_half_rotation,
    drop_position_buffer,
    drop_position_table,
    drop_position_table_and_share_config,
    drop_position_table_of_encoder,
    drop_rotation,
    keep_interleaved_rotation,
    keep_rotation,
    share_config,
)
from .alibi_registry import PolicyRegistry

policy_registry = PolicyRegistry()  # DEFAULT_POLICY
add = policy_registry.named("add")


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
