"""Chooses a backend by device, dtype and length, and says why."""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch.utils._triton import has_triton

from alibi_cli.attention.flex import BLOCK
from alibi_cli.attention.registry import AttentionBackend, AttentionConfig, build_attention, register_attention


@dataclass(frozen=True)
class AutoConfig(AttentionConfig):
    """No settings. Layers that no backend computes (padding, packing, windows, soft caps, learned sinks, code of a family's own) keep the
    model's own attention."""

    takes_sinks: ClassVar[bool] = True
    takes_offsets: ClassVar[bool] = True
    takes_near_sinks: ClassVar[bool] = True
    keeps_own: ClassVar[bool] = True


@register_attention("auto", AutoConfig)
class Auto(AttentionBackend):
    """The backend that `choose` names."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        slopes: torch.Tensor,
        causal: bool,
        **options: Any,
    ) -> torch.Tensor:
        name, _ = self._choose(query)
        return _built(name).attend(query, key, value, slopes, causal, **options)

    def explain(self, query: torch.Tensor) -> str:
        name, reason = self._choose(query)
        return f"{name}: {reason}"

    def _choose(self, query: torch.Tensor) -> tuple[str, str]:
        device, queries, width = query.device.type, query.shape[2], query.shape[3]
        return choose(device, query.dtype, queries, width, compiler=device == "cuda" and has_triton())


@cache
def _built(name: str) -> AttentionBackend:
    return build_attention({"name": name})


def choose(device: str, dtype: torch.dtype, queries: int, width: int, compiler: bool) -> tuple[str, str]:
    """A backend's name and the reason. width: of a head. compiler: whether Triton, which compiles FlexAttention, runs on the device."""
    if device == "cpu":
        return "blocked", "on a CPU the bias is read as a view, and keys too far away to matter are left out"
    if queries < BLOCK:
        return "sdpa", f"a bias of {queries} rows, as with a cache, is small"
    if not compiler:
        return "blocked", f"no compiler for {device}; a block of queries needs no compiler and little memory"
    if dtype == torch.float64 or width < 16:
        what = "float64" if dtype == torch.float64 else f"heads of {width}"
        return "blocked", f"FlexAttention does not compile {what}"
    return "flex", "one compiled kernel, which holds no bias"
