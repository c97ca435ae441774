"""Attention backends by name: registered once, then tested, benchmarked and built from a config everywhere.

A backend is a class or a function that computes softmax(q.k / sqrt(D) - m_h |i - j|) v. If it takes attention sinks, the first so many
keys get no bias; if it takes offsets, the bias is -m_h max(0, |i - j| - o_h). Its Config, a dataclass, holds its settings and says what it
can do and how exact it is. Every module in this folder is imported before the first look-up, so a new file is all that a new backend needs.

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width. Queries are the last Q of the K positions.
"""

import dataclasses
import difflib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import torch

from alibi_cli.attention.near_sinks import NearSinks
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.shapes import Keys, PerHead, Queries

# What a backend may take beside slopes.
OPTIONS = {
    "sinks": "attention sinks",
    "offsets": "offsets",
    "near_sinks": "attention sinks that are seen from a distance at most",
}
Registered = TypeVar("Registered", bound=Callable[..., Any])


@dataclass(frozen=True)
class AttentionConfig:
    """Settings of a backend, and what it guarantees; the base class of every Config.

    symmetric: it also computes the bias of encoders, which see both sides. takes_sinks, takes_offsets, takes_near_sinks: it has the
    argument `sinks`, `offsets`, `near_sinks`. no_gradients_on: types of device where it has no backward pass. keeps_own: layers that it
    cannot compute run on the model's own attention instead of being refused. tolerance: dtype name -> largest absolute error against
    float64 for inputs drawn from a standard normal distribution, at lengths up to 4096 and the slopes of Press et al.; the parity tests
    hold it to that.
    """

    symmetric: ClassVar[bool] = True
    takes_sinks: ClassVar[bool] = False
    takes_offsets: ClassVar[bool] = False
    takes_near_sinks: ClassVar[bool] = False
    no_gradients_on: ClassVar[frozenset[str]] = frozenset()
    keeps_own: ClassVar[bool] = False
    tolerance: ClassVar[dict[str, float]] = {"float64": 1e-12, "float32": 5e-6, "float16": 4e-3, "bfloat16": 3e-2}


class AttentionBackend:
    """Base class of backends: checks the input, then calls `attend`."""

    def __init__(self, config: AttentionConfig):
        self.config = config

    def __call__(
        self,
        query: Queries,
        key: Keys,
        value: Keys,
        slopes: PerHead | Sequence[float],
        causal: bool = True,
        sinks: int = 0,
        offsets: PerHead | Sequence[float] | None = None,
        near_sinks: NearSinks | None = None,
    ) -> Queries:
        """Attention with the bias, in the dtype of the query: (B, H, Q, D), (B, G, K, D) twice, (H,) -> (B, H, Q, D).

        sinks: how many keys, from the first on, get no bias. offsets (H,): distances in tokens up to which a head has no bias. near_sinks:
        from how far away queries see sinks at most.

        Raises:
            ValueError: shapes that do not fit, a symmetric bias from a backend that is causal only, sinks or offsets from one that does not
                take them, gradients from one that has none here.
        """
        heads, queries, width = query.shape[1:]
        if key.shape != value.shape or key.shape[0] != query.shape[0] or key.shape[3] != width:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value))
            raise ValueError(f"Query (B, H, Q, D), key and value (B, G, K, D) do not fit together: {shapes}.")
        if heads % key.shape[1]:
            raise ValueError(f"{heads} query heads cannot share {key.shape[1]} key/value heads evenly.")
        if queries > key.shape[2]:
            raise ValueError(f"{queries} queries are more than the {key.shape[2]} keys whose last positions they have.")
        exact = torch.promote_types(query.dtype, torch.float32)
        slopes = torch.as_tensor(slopes, dtype=exact, device=query.device)
        if slopes.shape != (heads,):
            raise ValueError(f"{heads} query heads need {heads} slopes, not a tensor of shape {tuple(slopes.shape)}.")
        if not causal and not self.config.symmetric:
            raise ValueError(f"The attention backend {name_of(self.config)!r} is causal only.")
        if isinstance(sinks, bool) or not isinstance(sinks, int) or sinks < 0:
            raise ValueError(f"sinks must be a whole number, 0 or more, not {sinks!r}.")
        if offsets is not None:
            offsets = torch.as_tensor(offsets, dtype=exact, device=query.device)
            if offsets.shape != (heads,):
                raise ValueError(f"{heads} query heads need {heads} offsets, not shape {tuple(offsets.shape)}.")
        if near_sinks is not None and near_sinks.distance < sinks:
            raise ValueError(f"{sinks} sinks that are seen from at most {near_sinks.distance} tokens are too many.")
        if near_sinks is not None and (not sinks or key.shape[2] - 1 <= near_sinks.distance):
            near_sinks = None
        given = {"sinks": sinks or None, "offsets": offsets, "near_sinks": near_sinks}
        options = {option: value for option, value in given.items() if value is not None}
        if missing := self.lacks(options):
            raise ValueError(f"The attention backend {name_of(self.config)!r} computes no {missing}.")
        if query.device.type in self.config.no_gradients_on and needs_gradients(query, key, value):
            raise ValueError(f"The attention backend {name_of(self.config)!r} has no gradients on {query.device.type}.")
        return self.attend(query, key, value, slopes, causal, **options)

    def attend(self, query: Queries, key: Keys, value: Keys, slopes: PerHead, causal: bool) -> Queries:
        """As `__call__`, on input that fits; slopes and offsets are float32, or float64 for a float64 query. With `sinks: int = 0`,
        `offsets: PerHead | None = None` and `near_sinks: NearSinks | None = None` as other arguments if the Config says so. The last is
        given where there are sinks and a query that is farther away than its distance."""
        raise NotImplementedError

    def lacks(self, options: Iterable[str]) -> str | None:
        """Which of some OPTIONS the backend does not take, in words."""
        lacking = (
            words
            for option, words in OPTIONS.items()
            if option in options and not getattr(self.config, f"takes_{option}")
        )
        return next(lacking, None)

    def explain(self, query: Queries) -> str:
        """How queries of this kind are computed, and why; empty if there is nothing to choose."""
        return ""


def needs_gradients(*tensors: torch.Tensor) -> bool:
    """Whether an operation on these tensors will be differentiated."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


@dataclass(frozen=True)
class _Entry:
    constructor: Callable[[Any], AttentionBackend]
    config: type[AttentionConfig]
    origin: str


_registry: dict[str, _Entry] = {}


def register_attention(name: str, config: type[AttentionConfig]) -> Callable[[Registered], Registered]:
    """Decorator: registers a subclass of AttentionBackend, or a function, under `name`; returns it unchanged.

    A function takes (query, key, value, slopes, causal), and perhaps sinks, as `AttentionBackend.attend` does, and the fields of `config`
    as keywords.

    Raises:
        ValueError: the name or the Config is taken; the message names both places.
        TypeError: not a subclass of AttentionBackend nor a function, or a Config that is no dataclass derived from AttentionConfig.
    """

    def decorator(backend: Registered) -> Registered:
        here = _origin(backend)
        if not (
            isinstance(config, type) and issubclass(config, AttentionConfig) and "__dataclass_fields__" in vars(config)
        ):
            raise TypeError(
                f"The Config of {name!r}, {config!r}, must be a dataclass derived from AttentionConfig: {here}."
            )
        if isinstance(backend, type) and not issubclass(backend, AttentionBackend):
            raise TypeError(f"{backend.__name__} must be a subclass of AttentionBackend to be registered: {here}.")
        if not isinstance(backend, type) and not inspect.isfunction(backend):
            raise TypeError(f"{backend!r} is neither a subclass of AttentionBackend nor a function.")
        for known, entry in _registry.items():
            if known == name:
                raise ValueError(f"The attention {name!r} is registered already: {entry.origin}; refused: {here}.")
            if entry.config is config:
                raise ValueError(
                    f"{config.__name__} is the Config of the attention {known!r} already: {entry.origin}; refused: {here}."
                )
        constructor = backend if isinstance(backend, type) else _wrapped(backend)
        _registry[name] = _Entry(constructor, config, here)
        return backend

    return decorator


def _wrapped(function: Callable[..., torch.Tensor]) -> type[AttentionBackend]:
    class FunctionBackend(AttentionBackend):
        def attend(
            self,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            slopes: torch.Tensor,
            causal: bool,
            **options: Any,
        ) -> torch.Tensor:
            return function(query, key, value, slopes, causal, **options, **dataclasses.asdict(self.config))

    return FunctionBackend


def _origin(backend: Any) -> str:
    """file:line of a class or function."""
    try:
        return f"{inspect.getsourcefile(backend)}:{inspect.getsourcelines(backend)[1]}"
    except (OSError, TypeError):  # typed into an interpreter
        return f"{getattr(backend, '__module__', '?')}.{getattr(backend, '__qualname__', backend)}"


def build_attention(config: dict[str, Any] | AttentionConfig) -> AttentionBackend:
    """A backend from {"name": …, and its settings}, or from an instance of its Config.

    Raises:
        AlibiError: no such name, a setting that the backend does not have, or one that it needs and is missing.
    """
    if isinstance(config, AttentionConfig):
        return _registry[name_of(config)].constructor(config)
    settings = dict(config)
    name = settings.pop("name", None)
    if name is None:
        raise UsageError('The config of an attention needs a "name".', _names())
    config_of(name)
    entry = _registry[name]
    fields = {field.name: field for field in dataclasses.fields(entry.config) if field.init}
    for unknown in [key for key in settings if key not in fields]:
        close = difflib.get_close_matches(unknown, fields, n=1)
        has = f"It has {', '.join(fields)}." if fields else "It has none."
        raise UsageError(
            f"The attention {name!r} has no setting {unknown!r}.",
            (f"Did you mean {close[0]}? " if close else "") + has,
        )
    nothing = dataclasses.MISSING
    needed = [key for key, field in fields.items() if field.default is nothing and field.default_factory is nothing]
    if missing := [key for key in needed if key not in settings]:
        raise UsageError(f"The attention {name!r} needs the setting {', '.join(missing)}.")
    return entry.constructor(entry.config(**settings))


def attention_names() -> list[str]:
    """The names of all registered backends, sorted; imports the built-in ones first."""
    package = import_module(__package__ or "alibi_cli.attention")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return sorted(_registry)


def config_of(name: str) -> type[AttentionConfig]:
    """The Config that is registered under a name.

    Raises:
        AlibiError: no such name.
    """
    if name not in attention_names():
        raise _no_such(name)
    return _registry[name].config


def name_of(config: AttentionConfig) -> str:
    """The name under which the Config of this instance is registered.

    Raises:
        AlibiError: it is not registered.
    """
    for name in attention_names():
        if _registry[name].config is type(config):
            return name
    raise UsageError(f"{type(config).__name__} is not the Config of a registered attention.", _names())


def unregister_attention(name: str) -> None:
    """Forgets a backend; for tests and for trying variants in an interpreter."""
    del _registry[name]


def _no_such(name: object) -> AlibiError:
    close = difflib.get_close_matches(str(name), attention_names(), n=1)
    hint = (f"Did you mean {close[0]}? " if close else "") + _names()
    return UsageError(f"There is no attention named {name!r}.", hint)


def _names() -> str:
    return f"Registered: {', '.join(attention_names())}."
