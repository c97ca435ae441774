"""The attention of converted checkpoints as a vLLM backend: what the checkpoint's own files compute, on vLLM's paged cache.

For biases that vLLM's kernels have no room for: offsets, attention sinks, heads of unusual widths. Request by request, the pages of a
sequence are put together and given to the same function that transformers calls, so results are those of transformers, prefix caching and
chunked prefill included. It copies the keys and values of a layer at every step, which vLLM's kernels do not.

Shapes: T tokens of a step, H heads, G key/value heads, D head width, N tokens of a page.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, AttentionMetadataBuilder, AttentionType

from alibi_cli.runtime.alibi_attention import alibi_attention
from alibi_cli.runtime.alibi_distances import alibi_distances
from alibi_cli.serving.layers import OWN, LayerBias
from alibi_cli.serving.rotations import rotation_of


class AlibiBackend(AttentionBackend):
    supported_dtypes = [torch.float16, torch.bfloat16, torch.float32]  # noqa: RUF012 - as vLLM declares it
    supported_kv_cache_dtypes = ["auto", "float16", "bfloat16"]  # noqa: RUF012

    @staticmethod
    def get_name() -> str:
        return OWN

    @staticmethod
    def get_impl_cls() -> type["AlibiImpl"]:
        return AlibiImpl

    @staticmethod
    def get_builder_cls() -> type["AlibiMetadataBuilder"]:
        return AlibiMetadataBuilder

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True


@dataclass
class Step:
    """The requests of one step. A request is (first token, last token + 1, tokens so far, its pages)."""

    requests: list[tuple[int, int, int, Tensor]]
    places: tuple[Tensor, Tensor]  # (T,) twice: the page, and the place in it, where each token's key and value go
    distances: dict[Any, Tensor] = field(default_factory=dict)  # the same for all layers with the same window


class AlibiMetadataBuilder(AttentionMetadataBuilder):
    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.page = kv_cache_spec.block_size

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Step:
        batch = common_attn_metadata
        starts, lengths = batch.query_start_loc_cpu.tolist(), batch.seq_lens.tolist()
        requests = []
        for row, (first, last, length) in enumerate(zip(starts, starts[1:], lengths, strict=False)):
            if last > first:
                pages = batch.block_table_tensor[row, : -(-length // self.page)]
                requests.append((first, last, length, pages.long()))
        slots = batch.slot_mapping[: batch.num_actual_tokens].long()
        return Step(requests, (slots // self.page, slots % self.page))


class AlibiImpl(AttentionImpl):
    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        *,
        bias: LayerBias,
        sinks: Tensor | None = None,
    ) -> None:
        if kv_cache_dtype not in AlibiBackend.supported_kv_cache_dtypes or attn_type != AttentionType.DECODER:
            raise ValueError(f"{OWN} attention has no {attn_type} attention with a cache of {kv_cache_dtype}.")
        if kv_sharing_target_layer_name is not None:
            raise ValueError(f"{OWN} attention does not share its cache between layers.")
        self.head_size, self.scale, self.softcap, self.learned_sinks = head_size, float(scale), logits_soft_cap, sinks
        self.num_heads, self.num_kv_heads, self.window = num_heads, num_kv_heads, sliding_window
        # What `alibi_attention` asks a module of transformers for.
        self.module = SimpleNamespace(
            alibi_slopes=bias.slopes,
            alibi_offsets=bias.offsets,
            config=bias.config,
            layer_idx=bias.layer,
            training=False,
        )
        if bias.config.alibi_sink_distance is not None:
            self.module.alibi_rotation = rotation_of(bias.config)

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Step | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """query (T, H, D), key and value (T, G, D), kv_cache (pages, G, N, 2 D) -> output (T, H, D)"""
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError(f"{OWN} attention does not quantise its output.")
        if attn_metadata is None:  # while vLLM measures memory
            return output.fill_(0)
        keys, values = kv_cache.split(self.head_size, dim=-1)
        page, place = attn_metadata.places
        keys[page, :, place] = key[: len(page)].to(keys.dtype)
        values[page, :, place] = value[: len(page)].to(values.dtype)
        for first, last, length, pages in attn_metadata.requests:
            found = alibi_attention(
                self.module,
                query[first:last].transpose(0, 1)[None],
                _together(keys, pages, length, query.dtype),
                _together(values, pages, length, query.dtype),
                self._distances(attn_metadata, last - first, length, query.device),
                scaling=self.scale,
                softcap=self.softcap,
                s_aux=self.learned_sinks,
            )[0]
            output[first:last] = found[0]
        return output

    def _distances(self, step: Step, queries: int, length: int, device: Any) -> Tensor:
        """The last `queries` of `length` tokens. Requests of the same two numbers share them, and so do layers."""
        what = queries, length, self.window
        if what not in step.distances:
            seen = causal_mask_function if self.window is None else sliding_window_causal_mask_function(self.window)
            step.distances[what] = alibi_distances(
                1, queries, length, length - queries, mask_function=seen, device=device, config=self.module.config
            )
        return step.distances[what]


def _together(cache: Tensor, pages: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """(pages, G, N, D), pages of a sequence -> (1, G, length, D)"""
    found = cache[pages].transpose(0, 1)  # (G, pages, N, D)
    return found.reshape(1, found.shape[0], -1, found.shape[-1])[:, :, :length].to(dtype)
