"""Tiny models of every family that a policy is registered for."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from alibi_cli.models.families import family_policies, model_class
from alibi_cli.settings.presets import presets_folder

OLD_MAX = 24
# Large initial weights: attention must matter, or the negative controls could not tell.
COMMON: dict[str, Any] = dict(
    vocab_size=61,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    intermediate_size=64,
    max_position_embeddings=OLD_MAX,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    initializer_range=0.25,
    init_std=0.25,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    attn_pdrop=0.0,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    dropout=0.0,
)
GROUPED: dict[str, Any] = dict(num_key_value_heads=2, head_dim=8)
EXPERTS: dict[str, Any] = {
    **GROUPED, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "experts_implementation": "eager",
}  # fmt: skip
ALTERNATING: dict[str, Any] = {**GROUPED, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
SPECIFIC: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "ctrl": {"dff": 64},
    "cohere": {"num_key_value_heads": 2},
    "cohere2": {**ALTERNATING, "head_dim": 8},
    "distilbert": {"hidden_dim": 64},
    "electra": {"embedding_size": 48},
    "gemma": GROUPED,
    "gemma2": {**ALTERNATING, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3": {**ALTERNATING, "query_pre_attn_scalar": 8},
    "glm": GROUPED,
    "gpt_oss": {**EXPERTS, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": GROUPED,
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 7},
    "mixtral": {**EXPERTS, "sliding_window": None},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "nemotron": GROUPED,
    "olmo3": ALTERNATING,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "phi3": {**GROUPED, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen2_moe": EXPERTS,
    "qwen3": GROUPED,
    "qwen3_moe": EXPERTS,
    "smollm3": GROUPED,
    "stablelm": {"num_key_value_heads": 2},
    "starcoder2": {**GROUPED, "sliding_window": None},
}
SPECIFIC |= {
    "bart": {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "decoder_start_token_id": 2, "forced_eos_token_id": None},
    "mpt": {"max_seq_len": OLD_MAX},
    "codegen": {"rotary_dim": 4, "num_attention_heads": 8},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 60, "token_dropout": False},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 7},
    "gptj": {"rotary_dim": 4},
    "t5": {"d_kv": 8, "d_ff": 64, "decoder_start_token_id": 1, "num_decoder_layers": 2},
    "xglm": {"ffn_dim": 64},
}  # fmt: skip
SPECIFIC["marian"] = {**SPECIFIC["bart"], "pad_token_id": 1}
MODEL_TYPES = {
    "openai": "openai-gpt",
    "gemma3": "gemma3_text",
    "xlm_roberta": "xlm-roberta",
}  # where the folder's name is not the model's type
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-inverse-layer": ("gpt2", dict(scale_attn_by_inverse_layer_idx=True)),
    "gpt2-upcast": ("gpt2", dict(reorder_and_upcast_attn=True)),
    "gpt2-8-heads": ("gpt2", dict(num_attention_heads=8)),
    "opt-350m": ("opt", dict(do_layer_norm_before=False, word_embed_proj_dim=24)),
    "llama-yarn": (
        "llama",
        dict(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 6,
            }
        ),
    ),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
}
OWN_BIAS = ("bloom", "mpt")  # ALiBi already: tests/reference/test_own_bias.py
FAMILIES = [family for family in family_policies() if family not in OWN_BIAS]
MODELS = [*FAMILIES, *VARIANTS]


def tiny_config(name: str, **changes: Any) -> Any:
    family, variant = VARIANTS.get(name, (name, {}))
    settings = {**COMMON, **SPECIFIC.get(family, {}), **variant, **changes}
    return CONFIG_MAPPING[MODEL_TYPES.get(family, family)](**settings)


def tiny_model(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """An unconverted model of random weights, made in `dtype` from the start."""
    config = tiny_config(name, **changes)
    cls = model_class(config) if config.architectures else _language_model(config)
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return cls(config).eval()
    finally:
        torch.set_default_dtype(before)


@cache
def skeleton(name: str) -> PreTrainedModel:
    """One without weights, to choose cases by."""
    with torch.device("meta"):
        return tiny_model(name)


def _language_model(config: Any) -> type[PreTrainedModel]:
    from transformers.models.auto import modeling_auto as auto

    if config.is_encoder_decoder:
        return auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)]
    masked = type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING
    return (auto.MODEL_FOR_MASKED_LM_MAPPING if masked else auto.MODEL_FOR_CAUSAL_LM_MAPPING)[type(config)]


def is_encoder(model: PreTrainedModel) -> bool:
    return "MaskedLM" in type(model).__name__


def sample_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids that are neither padding nor other special tokens."""
    return torch.randint(3, COMMON["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def save_tiny(family: str, folder: Path, **changes: Any) -> Path:
    """A float32 checkpoint folder with the byte tokenizer of the demonstration checkpoints."""
    from transformers import AutoTokenizer

    model = tiny_model(family, torch.float32, vocab_size=257, **changes)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2").save_pretrained(folder)
    return folder
