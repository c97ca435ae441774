"""FSDP and DeepSpeed, which shard a model over processes: what would not do what was asked is refused before the work begins, and models
are whole where this package looks at them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from alibi_cli.errors import UsageError
from alibi_cli.settings.healing import TrainSettings, not_sharded

GATHER = "stage3_gather_16bit_weights_on_model_save"


def check_installed(settings: TrainSettings) -> None:
    """Before transformers looks for it, whose own refusal leaves settings behind."""
    if settings.deepspeed is not None and find_spec("deepspeed") is None:
        raise UsageError("Training cannot be set up: `deepspeed` needs the package deepspeed.")


def check_sharding(settings: TrainSettings, args: TrainingArguments) -> None:
    """Raises UsageError for what would train without sharding, or end without weights."""
    if settings.fsdp is not None and (args.device.type == "cpu" or args.world_size == 1):
        raise not_sharded()
    config = _deepspeed(args)
    if config is not None and config.is_zero3() and not config.get_value(f"zero_optimization.{GATHER}"):
        raise UsageError(
            f"`deepspeed`: {settings.deepspeed} shards weights (stage 3), and they could not be written.",
            f'Set "{GATHER}": true under "zero_optimization".',
        )


@contextmanager
def loaded_whole(args: TrainingArguments) -> Iterator[None]:
    """Models that are loaded meanwhile are whole in every process. Under DeepSpeed's stage 3 transformers would load pieces of them, which
    nothing but DeepSpeed's engine can compute with; the engine shards them when training begins."""
    if (config := _deepspeed(args)) is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def _deepspeed(args: TrainingArguments) -> Any:
    """DeepSpeed's configuration; None without DeepSpeed, where transformers does not set the attribute."""
    return getattr(args, "hf_deepspeed_config", None)


def gathered_weights(trainer: Any) -> dict[str, Any] | None:
    """The weights of a sharded model, whole on the first process; None where nothing is sharded. Every process calls this."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    return trainer.accelerator.get_state_dict(trainer.model_wrapped)
