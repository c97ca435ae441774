"""Everything that a GGUF file cannot hold, with the reason and what to do instead.

llama.cpp would load most of these files without a word and compute something else, so the list is checked before anything is written.
"""

from collections.abc import Collection, Iterator
from typing import Any

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.exporting.architectures import FAMILIES, REFACT, Family
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY

STAY = "transformers runs the checkpoint as it is, and vLLM does for most families."
PER_HEAD_NORMS = "it normalises queries and keys before it compares them"
PARALLEL = "its attention and its feed-forward run side by side (parallel residual)"
EXPERTS = "it has experts"
MORE_NORMS = "it has more norms, and another gate"
ENCODER = "it is no causal language model"
WITHOUT = {
    **dict.fromkeys(("qwen3", "olmo2", "olmo3", "persimmon"), PER_HEAD_NORMS),
    **dict.fromkeys(("cohere", "cohere2", "gptj", "codegen", "phi", "falcon"), PARALLEL),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"), EXPERTS),
    **dict.fromkeys(("gemma", "gemma2", "gemma3"), MORE_NORMS),
    **dict.fromkeys(("albert", "bert", "camembert", "distilbert", "electra", "esm", "modernbert", "roberta", "xlm_roberta"), ENCODER),
    **dict.fromkeys(("bart", "marian", "t5"), "it is an encoder-decoder"),
    "ctrl": "its head has a bias",
    "openai": "it normalises after the residual",
}  # fmt: skip
# Keys of a config that change what is computed, where they are set.
SETTINGS = {
    "use_parallel_residual": PARALLEL,
    "qk_layernorm": "it normalises queries and keys per head",
    "clip_qkv": "it clips queries, keys and values",
    "apply_residual_connection_post_layernorm": "its residual starts after the norm",
    "add_cross_attention": "it has cross-attention",
}
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu", "relu2": "relu2",
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu_accurate": "gelu",
    "gelu": "erf", "gelu_python": "erf",
}  # fmt: skip


def family_of_export(name: str) -> Family:
    """
    Raises:
        AlibiError: no GGUF architecture has the family's block.
    """
    if name not in FAMILIES:
        reason = WITHOUT.get(name, "nobody has looked at it")
        raise _refused(f"No GGUF architecture with ALiBi has the block of a {name}: {reason}", STAY)
    return FAMILIES[name]


def check_config(name: str, family: Family, config: Any, approximate: bool) -> list[str]:
    """What the export approximates.

    Raises:
        AlibiError: the checkpoint has something that its architecture has not.
    """
    for reason, instead in _beside_slopes(name, config):
        raise _refused(reason, instead)
    for key, reason in SETTINGS.items():
        if getattr(config, key, None) or getattr(getattr(config, "attn_config", None), key, None):
            raise _refused(f"No GGUF architecture with ALiBi has the block of this {name}: {reason} ({key})", STAY)
    if name == "opt" and not (config.do_layer_norm_before and config.word_embed_proj_dim == config.hidden_size):
        raise _refused("This opt normalises after the residual or projects its embedding, which jais does not", STAY)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not family.architecture.any_head_width and width * config.num_attention_heads != config.hidden_size:
        heads = f"{config.num_attention_heads} heads of {width}"
        raise _refused(
            f"{family.architecture.name} wants heads that fill the width {config.hidden_size}, not {heads}", STAY
        )
    return list(_approximations(name, family, config, approximate))


def _beside_slopes(name: str, config: Any) -> Iterator[tuple[str, str]]:
    """(reason, what to do instead)"""
    again = "Convert its source again with `policy=replace`"
    if (config.alibi_policy or DEFAULT_POLICY) != DEFAULT_POLICY:
        reason = f"Policy {config.alibi_policy} keeps a rotation beside the bias, and no GGUF architecture has both"
        yield reason, f"{STAY} For llama.cpp: {again[0].lower()}{again[1:]}, and heal it with alibi train."
    if config.alibi_sinks:
        yield (
            f"A GGUF file cannot hold attention sinks, and this checkpoint has {config.alibi_sinks}",
            f"{again} `sinks=0`.",
        )
    if config.alibi_offsets is not None:
        yield "A GGUF file cannot hold offsets of the bias", f"{again}, which has none."
    declared = config.alibi_max_sequence_length
    if (window := _window(config)) is not None and (declared is None or declared > window):
        yield (
            f"This {name} sees the last {window} tokens only and declares {declared}; no GGUF architecture with ALiBi has a window",
            f"Convert its source again with `max_sequence_length={window}`, up to which the window changes nothing.",
        )
    partial = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if (config.alibi_rotary_scaling or 1.0) != 1.0 and partial != 1.0:
        yield "Its rotation scaled a part of every head, which no weight can hold", STAY


def _window(config: Any) -> int | None:
    """The shortest window of any layer."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds is not None and not {"sliding_attention", "local"} & set(kinds):
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    window = getattr(config, "sliding_window", None) or (getattr(config, "window_size", None) if kinds else None)
    return None if window is None else int(window)


def _approximations(name: str, family: Family, config: Any, approximate: bool) -> Iterator[str]:
    """
    Raises:
        AlibiError: an activation that the architecture does not have, or has only nearly and this was not asked for.
    """
    said = next(
        (getattr(config, k) for k in ("hidden_act", "activation_function", "hidden_activation") if hasattr(config, k)),
        None,
    )
    found = family.activation if said is None else ACTIVATIONS.get(said, said)
    wanted = "gelu" if family.activation == "erf" else family.activation
    if found == "erf" and wanted == "gelu":
        if not approximate:
            raise _refused(
                f"This {name} has the exact GELU; {family.architecture.name} has its tanh approximation, at most 5e-4 apart per activation",
                "Allow it with `approximate`.",
            )
        yield "GELU by its tanh approximation"
    elif found != wanted:
        raise _refused(f"This {name} has the activation {said}; {family.architecture.name} computes {wanted}", STAY)


def check_ignored(family: Family, layer: str, tensors: Collection[str]) -> None:
    """
    Raises:
        AlibiError: there are biases that refact loads and never adds.
    """
    layout = family.layout
    if family.architecture is not REFACT:
        return
    for name in (layout.attention_output, layout.gate, layout.up, layout.down):
        if name is not None and f"{layer}{name}.bias" in tensors:
            raise _refused(
                f"It has a bias, {layer}{name}.bias, which llama.cpp's refact loads and never adds: the file would compute something else",
                STAY,
            )


def check_slopes(max_bias: float | None, family: Family) -> float:
    """
    Raises:
        AlibiError: slopes that the architecture cannot compute.
    """
    built_in = family.architecture.max_bias
    if max_bias is None:
        raise _refused(
            "Its slopes are no set of Press et al.'s; a GGUF file holds one number from which llama.cpp computes them all",
            "Convert its source with `slopes=calibrated` `grid=press`, which ends on such a set, or with `slopes=press`.",
        )
    if built_in is not None and max_bias != built_in:
        raise _refused(
            f"Its slopes have max_bias {max_bias:g}, and llama.cpp's {family.architecture.name} has {built_in:g} built in",
            f"Convert its source with `max_bias={built_in:g}`.",
        )
    return max_bias


def torn_groups(n_groups: int) -> AlibiError:
    return _refused(
        f"The order of its slopes would take heads out of the {n_groups} groups that share keys and values",
        "Convert its source with `slopes=calibrated` `grid=press`, which keeps groups together.",
    )


def _refused(reason: str, instead: str) -> AlibiError:
    return UsageError(f"{reason}.", instead)
