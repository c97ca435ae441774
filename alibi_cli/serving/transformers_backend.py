"""Alibi<Name> for the other families: vLLM's Transformers backend around transformers' stock model, after its positions have changed."""

from functools import partial
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from vllm.model_executor.models.transformers import TransformersForCausalLM

from alibi_cli.names import CONVERTED
from alibi_cli.runtime.alibi_positions import NoPosition
from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.runtime.alibi_rewrite import policies
from alibi_cli.runtime.alibi_surgery import replace_modules
from alibi_cli.serving.layers import Attentions, layers_here
from alibi_cli.serving.routes import check, stock_type


class AlibiBackendModel(TransformersForCausalLM):
    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        self.__dict__["alibi"] = config = vllm_config.model_config.hf_config  # before torch may be told of attributes
        check(config)
        self.__dict__["attentions"] = Attentions(config)
        architectures = [name.removeprefix("Alibi") for name in config.architectures]
        super().__init__(vllm_config=vllm_config.with_hf_config(stock_config(config), architectures), prefix=prefix)
        self.attentions.check_count(architectures[0], layers_here(config.num_hidden_layers))

    def recursive_replace(self) -> None:
        """Before vLLM replaces layers by its own, the positions go."""
        drop_positions(self.model, self.alibi)
        super().recursive_replace()

    def _get_attn_cls(self) -> Any:
        return self.attentions.of(super()._get_attn_cls())


def stock_config(config: Any) -> Any:
    """The family's own config of a converted one."""
    values = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith(CONVERTED) and name not in ("auto_map", "model_type")
    }
    return CONFIG_MAPPING[stock_type(config)].from_dict(values)


def drop_positions(model: Any, config: Any) -> None:
    """What a policy does to a family's positions; its attention is vLLM's."""
    model.config.alibi_rotary_scaling = config.alibi_rotary_scaling
    found = policies(config.alibi_policy or DEFAULT_POLICY)
    of_positions = {cls: function for cls, function in found.items() if not cls.__name__.endswith("Attention")}
    bound = {cls: partial(function, max_sequence_length=0) for cls, function in of_positions.items()}
    replace_modules(model, bound, visit_root=True)
    if config.alibi_position_vector:
        for module in model.modules():
            if isinstance(module, NoPosition):
                module.learn_vector(torch.get_default_dtype(), "meta")


def __getattr__(name: str) -> Any:
    if not name.startswith("Alibi"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = type(name, (AlibiBackendModel,), {"__module__": __name__})
    return globals()[name]
