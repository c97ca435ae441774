"""What each attention layer of a served model is given: its slopes, and the attention that computes them.

vLLM's kernels take one slope per head. They compute no offsets and no attention sinks, and not every kernel takes every width of heads;
such layers get this package's own attention (own_attention.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alibi_cli.runtime.alibi_slopes import is_per_layer

OWN = "ALIBI"
# Backends that compute the slopes that they are given. FLASHINFER, vLLM's first choice on some GPUs, keeps them and never uses them.
COMPUTES_SLOPES = {
    "CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", OWN,
}  # fmt: skip


@dataclass(frozen=True)
class LayerBias:
    """The bias of one layer, of the heads that this rank of tensor parallelism computes."""

    layer: int
    slopes: list[float]
    offsets: list[float] | None
    config: Any  # holds alibi_sinks and alibi_sink_distance

    @property
    def is_plain(self) -> bool:
        """True if slopes say all of it."""
        return not (self.config.alibi_sinks or any(self.offsets or ()))


def bias_of(config: Any, layer: int, heads: int, rank: int) -> LayerBias:
    """Of the `heads` heads that rank `rank` computes in a layer."""

    def mine(values: Any) -> Any:
        if values is None:
            return None
        row = values[layer] if is_per_layer(values) else values
        return [float(value) for value in row[rank * heads : (rank + 1) * heads]]

    return LayerBias(layer, mine(config.alibi_slopes), mine(config.alibi_offsets), config)


class Attentions:
    """Makes the attention layers of one model, and knows how many it has made."""

    def __init__(self, config: Any) -> None:
        self.config, self.made = config, list[str]()

    def of(self, cls: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for vLLM's `Attention` while a model is built."""

        def make(num_heads: int, head_size: int, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
            from vllm.distributed import get_tensor_model_parallel_rank
            from vllm.model_executor.models.utils import extract_layer_index

            bias = bias_of(self.config, extract_layer_index(prefix), num_heads, get_tensor_model_parallel_rank())
            kwargs["alibi_slopes"] = bias.slopes  # BLOOM's own code passes some
            if not bias.is_plain or _too_narrow(head_size):
                from alibi_cli.serving.own_attention import AlibiBackend

                kwargs |= {"attn_backend": AlibiBackend, "bias": bias}
            attention = cls(num_heads, head_size, *args, prefix=prefix, **kwargs)
            check_backend(attention)
            self.made.append(prefix)
            return attention

        return make

    def check_count(self, name: str, layers: int) -> None:
        """Raises ValueError unless every layer has attention that was made here."""
        if len(self.made) != layers:
            raise ValueError(f"vLLM's {name} made {len(self.made)} attention layers with slopes, for {layers} layers.")


def check_backend(attention: Any) -> None:
    """Raises ValueError if the backend that vLLM chose for a layer would drop the bias."""
    name = attention.attn_backend.get_name()
    if name not in COMPUTES_SLOPES:
        raise ValueError(
            f"vLLM's attention backend {name} does not compute ALiBi. Its attention backends FLASH_ATTN and TRITON_ATTN do."
        )


def _too_narrow(head_size: int) -> bool:
    """True on CPUs, if vLLM's kernel does not know this width of heads."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return current_platform.is_cpu() and not AttentionBackendEnum.CPU_ATTN.get_class().supports_head_size(head_size)


def layers_here(layers: int) -> int:
    """How many of a model's layers this rank of pipeline parallelism computes."""
    from vllm.distributed import get_pp_group
    from vllm.distributed.utils import get_pp_indices

    first, last = get_pp_indices(layers, get_pp_group().rank_in_group, get_pp_group().world_size)
    return last - first
