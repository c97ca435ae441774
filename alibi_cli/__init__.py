"""ALiBi for any Hugging Face checkpoint: convert it, load it anywhere, measure what that did at every length.

Names are imported when they are first used, so that the command line answers before torch is loaded. `__init__.pyi` declares them for
editors and type checkers; `scripts/write_stub.py` writes it.
"""

from importlib import import_module
from typing import Any

from alibi_cli.models.auto_classes import register
from alibi_cli.version import __version__ as __version__

register()

_HOME = {
    "convert": "alibi_cli.conversion.convert",
    "plan": "alibi_cli.conversion.convert",
    "verify": "alibi_cli.conversion.verify",
    "export": "alibi_cli.exporting.export",
    "calibrate": "alibi_cli.calibration.calibrate",
    "train": "alibi_cli.training.train",
    "evaluate": "alibi_cli.evaluation.evaluate",
    "estimate": "alibi_cli.evaluation.estimate",
    "evaluate_task": "alibi_cli.evaluation.tasks.run_task",
    "report": "alibi_cli.reporting.report",
    "load_results": "alibi_cli.evaluation.results_file",
    "inspect_heads": "alibi_cli.calibration.inspect_heads",
    "inspect_slopes": "alibi_cli.models.slopes_of",
    "inspect_policies": "alibi_cli.models.policies",
    "inspect_environment": "alibi_cli.environment",
    "bench_attention": "alibi_cli.attention.benchmark",
    "Progress": "alibi_cli.progress",
    "AlibiError": "alibi_cli.errors",
    "UsageError": "alibi_cli.errors",
    "apply_alibi": "alibi_cli.surgery.apply",
    "get_slopes": "alibi_cli.slopes",
    "policy_registry": "alibi_cli.runtime.alibi_policies",
    "PolicyRegistry": "alibi_cli.runtime.alibi_registry",
    "register_task": "alibi_cli.evaluation.tasks.task",
    "register_attention": "alibi_cli.attention.registry",
    "build_attention": "alibi_cli.attention.registry",
    "AlibiPositionalBias": "alibi_cli.nn.bias",
    "LearnedAlibiPositionalBias": "alibi_cli.nn.bias",
    "get_biases": "alibi_cli.nn.bias",
    "AlibiMultiHeadAttention": "alibi_cli.nn.multi_head",
    "KeyValueCache": "alibi_cli.nn.multi_head",
    # Names of other implementations.
    "replace_module_classes": "alibi_cli.surgery.engine",
    "count_module_instances": "alibi_cli.surgery.engine",
    "update_params_in_optimizer": "alibi_cli.surgery.optimizers",
    "replace_params_in_optimizer": "alibi_cli.surgery.optimizers",
    "register_alibi": "alibi_cli.compat.positions",
    "zero_and_freeze_expand_position_embeddings": "alibi_cli.compat.positions",
    "scale_train_sequence_length": "alibi_cli.training.lengths",
}
__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - names are keys of a table


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
