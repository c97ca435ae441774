"""A registered backend in place of the attention of converted models, so that whole models can be measured on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from alibi_cli.attention.near_sinks import NearSinks
from alibi_cli.attention.registry import AttentionBackend, name_of
from alibi_cli.errors import UsageError
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME, alibi_attention, alibi_distances
from alibi_cli.runtime.alibi_distances import HIDDEN, SINK, Compact, distance_of
from alibi_cli.runtime.alibi_sinks import sees_sinks_as_near


@contextmanager
def attention_of_models(
    backend: AttentionBackend, explain: Callable[[str], None] = lambda _: None
) -> Iterator[Callable[[Any], None]]:
    """While it lasts, converted models of this process attend with `backend`; attention without slopes stays as it is, and so does what
    a family computes in code of its own instead of by transformers' attention interface. The function that it gives refuses models that
    have some of that (AlibiError), or explains it, if the backend leaves such layers alone.

    explain: is told once, for each kind of layer, how it is computed and why, if the backend chooses.

    Raises:
        AlibiError: from the model's forward, if a layer needs what backends do not compute: padding or windows, soft caps, learned sinks,
            a scale other than 1 / sqrt(D), dropout, or offsets or sinks where the backend takes none; unless the backend leaves such layers
            alone.
    """
    name = name_of(backend.config)

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query (B, H, Q, D), key and value (B, G, K, D), distances (B or 1, 1, Q, K) -> (B, Q, H, D), as `alibi_attention`."""
        slopes = getattr(module, "alibi_slopes", None)
        if slopes is None or attention_mask is None or attention_mask.dtype != torch.int32:  # the latter two it refuses
            return alibi_attention(module, query, key, value, attention_mask, **options)
        plain = _causal_and_sinks(attention_mask, key.shape[2])
        obstacle = _obstacle(module, query, options) or (
            "a mask of padding, windows or packing" if plain is None else None
        )
        if obstacle is None and plain is not None:
            causal, sinks = plain
            given = _options(module, sinks, key.shape[2])
            obstacle = backend.lacks(given)
        if obstacle is None:
            tell(backend.explain(query))
            return backend(query, key, value, slopes, causal=causal, **given).transpose(1, 2).contiguous(), None
        if not backend.config.keeps_own:
            raise _refusal(name, f"whose layers have {obstacle}")
        tell(f"the model's own: no backend computes {obstacle}")
        return alibi_attention(module, query, key, value, attention_mask, **options)

    told = {""}

    def tell(reason: str) -> None:
        if reason not in told:
            told.add(reason)
            explain(reason)

    def check(model: Any) -> None:
        if outside := _outside(model):
            if not backend.config.keeps_own:
                raise _refusal(name, f"whose {outside} computes attention itself")
            tell(f"the model's own: its {outside} computes attention itself")

    with registered(attend):
        yield check


@contextmanager
def registered(attend: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, converted models attend with `attend`, and get their mask from this package.

    A checkpoint's own code registers its copies of both functions under the same name. The two belong together: to the one of another
    copy, a mask that is never made whole is like any other, and it makes it whole.
    """
    interfaces = AttentionInterface, AttentionMaskInterface
    before = [interface()[ATTENTION_NAME] for interface in interfaces]
    for interface, function in zip(interfaces, (attend, alibi_distances), strict=True):
        interface.register(ATTENTION_NAME, function)
    try:
        yield
    finally:
        for interface, function in zip(interfaces, before, strict=True):
            interface.register(ATTENTION_NAME, function)


def _refusal(name: str, reason: str) -> UsageError:
    return UsageError(f"The attention {name!r} cannot run this model, {reason}.", "Leave `attention` out.")


def _outside(model: Any) -> str | None:
    """The class of an attention with slopes, of a decoder, that transformers' attention interface does not reach: two tokens tell."""
    seen = set()

    def noting(module: Any, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen.add(module)
        return alibi_attention(module, *args, **options)

    with registered(noting), torch.no_grad():
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    biased = (module for module in model.modules() if getattr(module, "alibi_slopes", None) is not None)
    return next((type(module).__name__ for module in biased if module not in seen), None)


def _obstacle(module: Any, query: torch.Tensor, options: dict[str, Any]) -> str | None:
    """What else a layer does to its scores, which no backend computes."""
    scale = options.get("scaling")
    if scale is not None and abs(scale * query.shape[-1] ** 0.5 - 1) > 1e-6:
        return f"a scale of {scale:.4g}"
    if getattr(module, "alibi_keeps_relative_bias", False):
        return "a relative bias"
    for option, what in (("softcap", "a soft cap"), ("s_aux", "learned sinks"), ("dropout", "dropout")):
        if options.get(option) is not None and not (option == "dropout" and options[option] == 0):
            return what
    return None


def _options(module: Any, sinks: int, keys: int) -> dict[str, Any]:
    """What a layer needs of a backend besides slopes."""
    given: dict[str, Any] = {"sinks": sinks} if sinks else {}
    if getattr(module, "alibi_offsets", None) is not None:
        given["offsets"] = module.alibi_offsets
    if sinks and sees_sinks_as_near(module) and keys - 1 > module.config.alibi_sink_distance:
        given["near_sinks"] = NearSinks.of(module)
    return given


def _causal_and_sinks(entries: torch.Tensor, keys: int) -> tuple[bool, int] | None:
    """Of what `alibi_distances` gives, (B or 1, 1, Q, K or more): whether keys after the query are hidden, and how many keys, from the
    first on, get no bias; None if other keys are hidden."""
    if isinstance(entries, Compact) and entries.shape[-1] == keys:
        return None if entries.causal is None else (entries.causal, entries.spans[0][0][-1])  # of the last queries
    entries, n_queries = entries[..., :keys], entries.shape[-2]
    i = torch.arange(keys - n_queries, keys, device=entries.device)[:, None]
    j = torch.arange(keys, device=entries.device)[None, :]
    found = distance_of(entries)
    sinks = int((found != entries)[..., -1, :].sum(-1).max())  # the last query sees all of them
    expected = torch.where(j < sinks, SINK, 0) - 1 - (i - j).abs()  # (Q, K)
    if (entries == expected.masked_fill(j > i, HIDDEN)).all():
        return True, sinks
    return (False, sinks) if (entries == expected).all() else None
