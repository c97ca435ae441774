"""A registered backend in place of the attention of converted models, so that whole models can be measured on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from alibi_cli.attention.registry import AttentionBackend, name_of
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME, HIDDEN, Unbroken, alibi_attention


@contextmanager
def attention_of_models(backend: AttentionBackend) -> Iterator[None]:
    """While it lasts, every converted model of this process attends with `backend`; attention without slopes stays as it is.

    Raises:
        AlibiError: from the model's forward, if a layer needs what backends do not compute: padding or windows, soft caps, sinks, a scale
        other
            than 1 / sqrt(D), dropout.
    """
    name = name_of(backend.config)

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """query (B, H, Q, D), key and value (B, G, K, D), distances (B or 1, 1, Q, K) -> (B, Q, H, D), as `alibi_attention`."""
        slopes = getattr(module, "alibi_slopes", None)
        if slopes is None or attention_mask is None or attention_mask.dtype != torch.int32:  # the latter two it refuses
            return alibi_attention(module, query, key, value, attention_mask, **options)
        scale = options.get("scaling")
        if scale is not None and abs(scale * query.shape[-1] ** 0.5 - 1) > 1e-6:
            raise _cannot(name, f"a scale of {scale:.4g}")
        for option, what in (("softcap", "a soft cap"), ("s_aux", "sinks"), ("dropout", "dropout")):
            if options.get(option) is not None and not (option == "dropout" and options[option] == 0):
                raise _cannot(name, what)
        n_queries, n_keys = query.shape[2], key.shape[2]
        if isinstance(attention_mask, Unbroken) and attention_mask.shape[-1] == n_keys:
            causal = attention_mask.causal
        else:
            causal = _is_causal(attention_mask[..., :n_keys], n_queries, n_keys, name)
        return backend(query, key, value, slopes, causal=causal).transpose(1, 2).contiguous(), None

    AttentionInterface.register(ATTENTION_NAME, attend)
    try:
        yield
    finally:
        AttentionInterface.register(ATTENTION_NAME, alibi_attention)


def _is_causal(seen: torch.Tensor, n_queries: int, n_keys: int, name: str) -> bool:
    """seen (B or 1, 1, Q, K): whether these are the distances under a causal mask; False if nothing is hidden."""
    i = torch.arange(n_keys - n_queries, n_keys, device=seen.device)[:, None]
    j = torch.arange(n_keys, device=seen.device)[None, :]
    distances = -1 - (i - j).abs()  # (Q, K)
    causal = bool((seen == distances.masked_fill(j > i, HIDDEN)).all())
    if not causal and not (seen == distances).all():
        raise _cannot(name, "a mask of padding, windows or packing")
    return causal


def _cannot(name: str, what: str) -> AlibiError:
    return AlibiError(
        f"The attention {name!r} cannot run this model, whose layers have {what}.", "Leave --attention out.", EXIT_USAGE
    )
