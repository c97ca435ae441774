"""Applying the registered policies to a whole model, and the checks that go with it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from .alibi_attention import ATTENTION_NAME
from .alibi_distances import NOT_PACKED, restarts
from .alibi_policies import policy_registry
from .alibi_positions import NoPosition, NoRotation, NoTable, rotates
from .alibi_registry import DEFAULT_POLICY
from .alibi_slopes import is_per_layer, is_slope, layers_of
from .alibi_surgery import replace_modules

NO_TURN = "has no rotation that its attention could turn back, so it cannot have a sink_distance."


def rewrite(model: Any) -> None:
    """Applies the policy that a model's config names to the model; the config holds the slopes as well.

    Raises:
        ValueError: the config's slopes do not fit, or the surgery did not reach both the attention and the positions.
    """
    # Version 0.1.0 took slopes of zero, and what it wrote still loads.
    check_slopes(
        model.config.alibi_slopes, model.config, getattr(model.config, "alibi_offsets", None), legal=_not_negative
    )
    length = model.config.alibi_max_sequence_length
    name = policy_of(model.config)
    bound = {cls: functools.partial(policy, max_sequence_length=length) for cls, policy in policies(name).items()}
    changed = replace_modules(model, bound, visit_root=True)
    learns = bool(getattr(model.config, "alibi_position_vector", None))
    for module in model.modules():
        if isinstance(module, NoPosition):
            module.learn_vector(model.dtype, model.device, learns)
    biased = {module for module in model.modules() if getattr(module, "alibi_slopes", None) is not None}
    layers = model.config.num_hidden_layers
    if is_per_layer(model.config.alibi_slopes) and len(biased) != layers:
        raise ValueError(
            f"{type(model).__name__} has {len(biased)} attention modules for {layers} layers: slopes per layer do not fit it."
        )
    if not biased:
        raise ValueError(f"ALiBi surgery changed nothing: no policy knows the attention of {type(model).__name__}.")
    _link_rotations(model, biased)
    _guard(model, biased)
    without = any(
        isinstance(stand_in, (NoPosition, NoRotation, NoTable))
        for module in model.modules()
        for stand_in in (module, *vars(module).values())
    )
    if name == DEFAULT_POLICY and biased.issuperset(changed) and not without:
        raise ValueError(
            f"ALiBi surgery is incomplete: no policy knows where {type(model).__name__} keeps its positions."
        )
    for config in configs_of(model):
        config._attn_implementation = attention_of(model)


def _link_rotations(model: Any, biased: set[Any]) -> None:
    """Tells each attention the rotation of its queries and keys, where that is kept: its own, or else the model's.

    Raises:
        ValueError: sinks are to be seen as if near, and there is no rotation that could be turned back.
    """
    rotations = [module for module in model.modules() if hasattr(module, "alibi_interleaved")]
    for module in biased:
        own = [part for part in module.modules() if part in rotations] or rotations
        if own and rotates(module):  # in a tuple, which hides it from whoever lists the module's parts
            module.alibi_rotation = own[0], own[0].alibi_interleaved
    wanted = getattr(model.config, "alibi_sink_distance", None) is not None
    if wanted and not any(hasattr(module, "alibi_rotation") for module in biased):
        raise ValueError(f"{type(model).__name__} {NO_TURN}")


def attention_of(model: Any) -> str:
    """The attention implementation of a rewritten model: ours, except where the family computes ALiBi itself."""
    own = any(getattr(module, "alibi_own_bias", False) for module in model.modules())
    return "eager" if own else ATTENTION_NAME


def configs_of(model: Any) -> list[Any]:
    """The configs of a model and its parts: one, except where stacks have copies of their own."""
    found = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    return [config for config in found.values() if type(config) is type(model.config)]


def _guard(model: Any, biased: set[Any]) -> None:
    """Hooks on the innermost models around the attention: what is the same for all layers is looked at once per forward pass."""
    if any(getattr(module, "alibi_own_bias", False) for module in biased):
        if not hasattr(model, "alibi_refuses_packing"):
            model.alibi_refuses_packing = True
            model.alibi_arguments = _arguments_of(model)
            model.register_forward_pre_hook(_refuse_packing, with_kwargs=True)
        return
    around: dict[torch.nn.Module, Any] = {}
    for part in model.modules():  # before what they contain
        if isinstance(part, PreTrainedModel):
            around.update(dict.fromkeys(part.modules(), part))
    kinds = {type(module) for module in biased}  # attention between stacks has no slopes and is of the same kinds
    attention = [module for module in model.modules() if type(module) in kinds and hasattr(module, "config")]
    for outer in {around[module] for module in biased}:
        if not hasattr(outer, "alibi_attention_modules"):
            outer.alibi_arguments = _arguments_of(outer)
            outer.register_forward_pre_hook(_before_forward, with_kwargs=True)
            outer.register_forward_hook(_after_forward, always_call=True)
        # A tuple hides them from whoever lists the model's parts.
        outer.alibi_attention_modules = tuple(module for module in attention if around[module] is outer)
    for module in attention:
        if "alibi_keeps_weights" not in vars(module):
            module.alibi_keeps_weights = False


def _arguments_of(model: Any) -> tuple[str, ...]:
    """The names of what `model` may be given by position, in that order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(type(model).forward).parameters.values()
    return tuple(each.name for each in parameters if each.kind in kinds)[1:]


def _named(model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a forward pass by name, however they were given."""
    return {**dict(zip(model.alibi_arguments, args, strict=False)), **kwargs} if args else kwargs


def _refuse_packing(model: Any, args: Any, kwargs: Any) -> None:
    """Of families that compute ALiBi themselves, with masks that know no documents."""
    if torch.compiler.is_compiling():
        return
    given = _named(model, args, kwargs)
    if _restarts(given.get("position_ids"), given.get("attention_mask")) is not None:
        raise ValueError(NOT_PACKED)


def _before_forward(model: Any, args: Any, kwargs: Any) -> None:
    _refuse_other_attention(model)
    given = _named(model, args, kwargs)
    _show_weights(model, given.get("output_attentions"))
    if not torch.compiler.is_compiling():  # the values of a tensor are not known there
        restarts.set(_restarts(given.get("position_ids"), given.get("attention_mask")))


def _after_forward(model: Any, args: Any, output: Any) -> None:
    if not torch.compiler.is_compiling():
        restarts.set(None)


def _refuse_other_attention(model: Any) -> None:
    """Whoever switches the attention of a part of the model, or in its config, would lose the bias without a word."""
    for module in model.alibi_attention_modules:
        if module.config._attn_implementation != ATTENTION_NAME:
            raise ValueError(
                f"This model computes ALiBi in its own attention; attn_implementation={module.config._attn_implementation!r} "
                "would drop the bias."
            )


def _show_weights(model: Any, wanted: bool | None) -> None:
    """Attention returns its weights where `output_attentions` asks for them; not every family passes that on to its attention."""
    wanted = bool(model.config.output_attentions if wanted is None else wanted)
    attention = model.alibi_attention_modules
    if getattr(model, "_is_replica", False):  # of DataParallel, which copies the tuple but not what is in it
        kinds = {type(module) for module in attention}
        attention = [module for module in model.modules() if type(module) in kinds and hasattr(module, "config")]
    for module in attention:
        if module.alibi_keeps_weights != wanted:
            module.alibi_keeps_weights = wanted


def _restarts(positions: Tensor | None, tokens: Any) -> Tensor | None:
    """(B, Q) booleans: the tokens whose position is not above that of the token before, as in packed documents; None if there are none.
    tokens: (B, K) mask of padding, whose positions are arbitrary; another is a mask that was made before, and is not made again."""
    if positions is None or positions.dim() != 2 or positions.shape[1] < 2:
        return None
    if tokens is not None and not (isinstance(tokens, Tensor) and tokens.dim() == 2):
        return None
    again = positions[:, 1:] <= positions[:, :-1]
    if tokens is not None:
        token = tokens[:, -positions.shape[1] :].bool()
        again = again & token[:, 1:] & token[:, :-1]
    return pad(again, (1, 0)) if again.any() else None


def policy_of(config: Any) -> str:
    """The name of a converted config's policy; checkpoints of 0.1.0 name none."""
    return getattr(config, "alibi_policy", None) or DEFAULT_POLICY


def policies(name: str) -> dict[type, Any]:
    """{module class: function} of a named policy.

    Raises:
        ValueError: nobody has registered a policy of that name.
    """
    if name not in policy_registry.policies:
        raise ValueError(f"There is no policy {name!r}; there are {', '.join(policy_registry.policies)}.")
    return policy_registry.named(name).loaded()


def _not_negative(value: float) -> bool:
    return 0 <= value < float("inf")


def check_slopes(slopes: Any, config: Any, offsets: Any = None, legal: Callable[[Any], bool] = is_slope) -> None:
    """Raises ValueError unless `slopes` are legal, `offsets`, if there are any, finite and not negative, and both one per query head: once,
    or once per layer."""
    if not slopes:
        raise ValueError(
            "config.alibi_slopes is missing: it holds one slope per attention head, or one list per layer."
        )
    _check_per_head("alibi_slopes", slopes, config, legal, "positive in float32")
    if offsets is not None:
        _check_per_head("alibi_offsets", offsets, config, _not_negative, "finite and not negative")


def _check_per_head(name: str, values: Any, config: Any, legal: Callable[[Any], bool], what: str) -> None:
    heads, layers, rows = config.num_attention_heads, config.num_hidden_layers, layers_of(values)
    if len(rows) != (layers if is_per_layer(values) else 1) or any(
        not isinstance(row, (list, tuple)) or len(row) != heads for row in rows
    ):
        noun = name.removeprefix("alibi_")
        raise ValueError(f"config.{name} must hold {heads} {noun}, or {layers} lists of {heads}, one per layer.")
    if not all(legal(value) for row in rows for value in row):
        raise ValueError(f"config.{name} must be {what}.")
