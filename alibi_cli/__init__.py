"""ALiBi for any Hugging Face checkpoint: convert it, load it anywhere, measure what that did at every length.

Names are imported when they are first used, so that the command line answers before torch is loaded.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "apply_alibi": "alibi_cli.surgery.apply",
    "get_slopes": "alibi_cli.slopes",
    "policy_registry": "alibi_cli.runtime.alibi_policies",
    "PolicyRegistry": "alibi_cli.runtime.alibi_surgery",
    "replace_module_classes": "alibi_cli.surgery.engine",
    "count_module_instances": "alibi_cli.surgery.engine",
    "update_params_in_optimizer": "alibi_cli.surgery.optimizers",
    "replace_params_in_optimizer": "alibi_cli.surgery.optimizers",
    "register_alibi": "alibi_cli.surgery.positions",
    "zero_and_freeze_expand_position_embeddings": "alibi_cli.surgery.positions",
    "scale_train_sequence_length": "alibi_cli.surgery.batch",
    "AlibiPositionalBias": "alibi_cli.bias",
    "LearnedAlibiPositionalBias": "alibi_cli.bias",
    "get_biases": "alibi_cli.bias",
    "AlibiMultiHeadAttention": "alibi_cli.attention.mha",
    "KeyValueCache": "alibi_cli.attention.mha",
    "register_attention": "alibi_cli.attention.registry",
    "build_attention": "alibi_cli.attention.registry",
    "AlibiError": "alibi_cli.errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
