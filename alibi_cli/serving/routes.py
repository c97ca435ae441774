"""Which families vLLM serves, by which route; and which checkpoints of them it would get wrong."""

from typing import Any

from alibi_cli.names import CONVERTED
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.surgery.kinds_of_rotation import depends_on_length

# By vLLM's own models.
NATIVE = (
    "bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3", "gpt2", "gpt_oss", "gptj", "granite", "llama", "mistral",
    "mixtral", "nemotron", "opt", "phi3", "qwen2", "qwen2_moe", "qwen3", "stablelm",
)  # fmt: skip
# By vLLM's Transformers backend.
BACKEND = (
    "biogpt", "glm", "gpt_bigcode", "gpt_neox", "olmo", "olmo2", "olmo3", "persimmon", "phi", "smollm3", "starcoder2",
)  # fmt: skip
MODEL_TYPES = {"gemma3": "gemma3_text"}  # where the family's name is not the model's type


def architectures() -> dict[str, str]:
    """{name in config.json: module of this package} of all that vLLM is told of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    routes = {"native": NATIVE, "transformers_backend": BACKEND}
    found = {}
    for route, families in routes.items():
        for family in families:
            name = NAMES[MODEL_TYPES.get(family, family)]
            found[f"Alibi{name if isinstance(name, str) else name[0]}"] = route
    return found


def stock_type(config: Any) -> str:
    """The model type that a converted config was made of."""
    return str(config.model_type.removeprefix(CONVERTED))


def check(config: Any) -> None:
    """Raises ValueError if vLLM would compute something else than this config says."""
    policy = config.alibi_policy or DEFAULT_POLICY
    if policy not in (DEFAULT_POLICY, "add"):
        raise ValueError(f"Policy {policy!r} is a plug-in's; vLLM serves checkpoints with 'replace' and 'add'.")
    if policy == "add" and (kind := depends_on_length(config)):
        raise ValueError(
            f"This checkpoint keeps a rotation of the kind {kind!r}, which depends on the length of the text; vLLM's depends "
            "on the length that it was started with. Serve it with transformers."
        )
