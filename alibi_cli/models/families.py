"""Which transformers families the registered policies reach. Derived from the registry: there is no second list."""

import difflib
from typing import TYPE_CHECKING, Any

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.models.plausible import check_plausible
from alibi_cli.names import CONVERTED
from alibi_cli.runtime.alibi_modules import take_bias, take_bias_as_mask
from alibi_cli.runtime.alibi_policies import policy_registry
from alibi_cli.runtime.alibi_positions import can_turn_back
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY, origin
from alibi_cli.runtime.modeling_alibi import stock_class
from alibi_cli.surgery.refusals import no_rotation, nothing_to_add, trained_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Families that look as if they could be converted, and why they are not.
REFUSED = {
    "deberta": "its attention scores depend on content and relative position together, so a bias cannot take the place of its positions",
    "deberta-v2": "its attention scores depend on content and relative position together, so a bias cannot take the place of its positions",
}


def family_policies(name: str = DEFAULT_POLICY) -> dict[str, list[tuple[str, str, str]]]:
    """{family: [(module class, what its policy does, file:line)]} of a named policy, families in alphabetical order."""
    table: dict[str, list[tuple[str, str, str]]] = {}
    for key, policy in policy_registry.named(name).items():
        path = key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}"
        module, _, name = path.rpartition(".")
        table.setdefault(_family_of_module(module), []).append((name, policy.__name__, origin(policy)))
    return dict(sorted(table.items()))


def verified_against(family: str, policy: str = DEFAULT_POLICY) -> str:
    """What the tests of this package compare a family with; nothing is known of a plug-in's."""
    path = f"transformers.models.{family}."
    registry = policy_registry.named(policy)
    keys = [key for key in registry if isinstance(key, str) and key.startswith(path)]
    built_in = any(registry.registered_by[key].startswith("alibi_cli.runtime.") for key in keys)
    return "float64 reference" if built_in else "–"


def _family_of_module(module: str) -> str:
    """transformers.models.gpt2.modeling_gpt2 -> gpt2; the module's own name for a plug-in's."""
    parts = module.split(".")
    return parts[2] if module.startswith("transformers.models.") else parts[-1]


def family_of(model_type: str) -> str:
    """The family of a model type: the name of its folder in transformers (xlm-roberta -> xlm_roberta), or of the plug-in that has it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name

    if model_type in CONFIG_MAPPING:
        return _family_of_module(CONFIG_MAPPING[model_type].__module__)
    return model_type_to_module_name(model_type)


def sink_distance(config: "PreTrainedConfig", policy: str, sinks: int) -> int | None:
    """From how many tokens away sinks are seen at most: the trained length, where a rotation is kept that can be turned back."""
    family, registry = family_of(config.model_type), policy_registry.named(policy)
    functions = [
        registry[key]
        for key in registry
        if _family_of_module(key.rpartition(".")[0] if isinstance(key, str) else key.__module__) == family
    ]
    trained = trained_length(config)
    return max(trained, sinks) if sinks and trained and can_turn_back(functions) and _rotates(config) else None


def _rotates(config: "PreTrainedConfig") -> bool:
    """False if none of the layers rotates, which `runtime.alibi_positions.rotates` says of a module."""
    if config.model_type == "cohere2":
        return "sliding_attention" in (config.layer_types or []) and config.sliding_window is not None
    return any(getattr(config, "no_rope_layers", None) or [True])


def policy_names() -> list[str]:
    """The policies that somebody has registered functions for, the default one first."""
    return [name for name, registry in policy_registry.policies.items() if registry]


def mechanism(family: str, policy: str = DEFAULT_POLICY) -> str:
    """How the family's positions are removed, or kept: the names of the functions that are not the attention's alone."""
    names = [name for _, name, _ in family_policies(policy)[family] if name != take_bias.__name__]
    return ", ".join(names) or "positions kept"


def shows_scores(family: str, policy: str) -> bool:
    """False where attention is the family's own code, whose queries and keys nobody sees: reach cannot fit its slopes."""
    return all(name != take_bias_as_mask.__name__ for _, name, _ in family_policies(policy)[family])


def check_policy(config: "PreTrainedConfig", policy: str, where: str, sinks: int = 0) -> None:
    """
    Raises:
        AlibiError: there is no such policy, or it does not know the family, or the family computes ALiBi itself and cannot have sinks.
    """
    if policy not in policy_names():
        close = difflib.get_close_matches(policy, policy_names(), n=1)
        raise UsageError(
            f"There is no policy {policy!r}; there are {', '.join(policy_names())}.",
            f"Did you mean {close[0]}?" if close else None,
        )
    family = family_of(config.model_type)
    if family in family_policies(policy):
        if sinks and "own_bias" in mechanism(family, policy):
            raise UsageError(f"{where} computes ALiBi itself, which knows no sinks.")
        return
    replaced = mechanism(family) if family in family_policies() else ""
    if policy == "add" and "own_bias" in replaced:
        raise UsageError(nothing_to_add(where))
    if policy == "add" and replaced:
        raise UsageError(no_rotation(where, trained_length(config)))
    known = [name for name in policy_names() if family in family_policies(name)]
    raise UsageError(f"Policy {policy} does not know the family {family}, which {', '.join(known)} does.")


def config_of(raw: dict[str, Any], where: str) -> "PreTrainedConfig":
    """The transformers configuration of a config.json of a supported, unconverted family.

    Raises:
        AlibiError: no model_type, an already converted model, or a family that no policy knows.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise UsageError(f"The config.json of {where} has no model_type.")
    if model_type.startswith(CONVERTED):
        raise UsageError(
            f"{where} is already converted (model_type {model_type}).",
            hint="Convert its source again to change slopes or length.",
        )
    if reason := REFUSED.get(model_type):
        raise UsageError(f"Model type {model_type!r} is not converted: {reason}.")
    known = {family for name in policy_names() for family in family_policies(name)}
    if family_of(model_type) not in known or model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(family_of(model_type), known, n=1, cutoff=0)
        raise UsageError(
            f"Model type {model_type!r} is not supported. Supported: {', '.join(sorted(known))}. The closest is {close[0]}.",
        )
    check_plausible(raw, where)
    try:
        config = CONFIG_MAPPING[model_type].from_dict({k: v for k, v in raw.items() if "attn_implementation" not in k})
    except Exception as error:  # transformers validates configs with errors of many types
        raise AlibiError(
            f"The config.json of {where} does not describe a {model_type} model: {' '.join(str(error).split())}"
        ) from None
    # transformers would take the family's usual number; tensors have the same shapes for any, so nothing else would tell.
    names = {"num_attention_heads", type(config).attribute_map.get("num_attention_heads", "num_attention_heads")}
    if not names & raw.keys():
        raise AlibiError(f"The config.json of {where} does not say how many attention heads there are ({max(names)}).")
    return config


def model_class(config: "PreTrainedConfig") -> "type[PreTrainedModel]":
    """The class in which a checkpoint was saved; for lack of one, the family's language model."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
    )

    for name in config.architectures if isinstance(config.architectures, list) else []:
        cls = stock_class(str(name))
        if cls is not None and getattr(cls, "config_class", None) is type(config):
            return cls
    language = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    mapping: Any
    for mapping in (language, MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise UsageError(f"transformers has no model class for {type(config).__name__}.")
