"""ALiBi surgery on a model in memory."""

import functools
from typing import Any

import torch
from transformers import PreTrainedModel

from alibi_cli.runtime.alibi_registry import DEFAULT_POLICY
from alibi_cli.runtime.alibi_rewrite import attention_of, check_slopes, configs_of, policies, policy_of, rewrite
from alibi_cli.runtime.alibi_surgery import replace_modules
from alibi_cli.runtime.modeling_alibi import (
    OPTIONAL,
    AlibiConfigMixin,
    AlibiModelMixin,
    auto_map_for,
    config_class_for,
    model_class_for,
    stock_class,
)
from alibi_cli.slopes import Slopes, get_slopes
from alibi_cli.surgery.kinds_of_rotation import rotation_reads_length
from alibi_cli.surgery.optimizers import Optimizers, the_one, update_params_in_optimizer
from alibi_cli.surgery.refusals import check_reach
from alibi_cli.surgery.undo import all_or_nothing


def apply_alibi(
    model: torch.nn.Module,
    max_sequence_length: int,
    optimizers: Optimizers = None,
    *,
    slopes: Slopes | str | None = None,
    policy: str = DEFAULT_POLICY,
    sinks: int = 0,
    sink_distance: int | None = None,
    offsets: Slopes | None = None,
    position_vector: bool = False,
) -> None:
    """Gives `model` ALiBi, in place: instead of its positional encoding, or beside it. If it fails, the model is as it was.

    The model may be a transformers model with or without a head, or any module that contains some. A model of a stock
    transformers class becomes its converted class (GPT2LMHeadModel -> AlibiGPT2LMHeadModel), so that `save_pretrained` writes a checkpoint
    that others can load. In a module without a transformers model, the functions that are registered for its classes rewrite what they
    find (`policy_registry.register`); what slopes they give is theirs to say.

    Args:
        max_sequence_length: the length that the config declares; no tensor is sized by it.
        optimizers: an optimizer made before the surgery; parameters that the surgery removed are taken out of it.
        slopes: one per query head, or one such list per layer; Press et al.'s if not given, or given by name as "press".
        policy: "replace" removes the positional encoding; "add" keeps a rotation, or T5's relative bias, and adds the bias to its scores.
            Or the name of a plug-in's policy.
        sinks: how many first tokens of every document get no bias.
        sink_distance: where a rotation is kept, queries see sinks from so many tokens away at most. It should be the trained length: from
            beyond it a model no longer recognises them. Without sinks it is ignored.
        offsets: of the shape of `slopes`: tokens at a distance up to which a head has no bias, -m max(0, |i - j| - offset). Not for the
            policy "replace", which is textbook ALiBi.
        position_vector: add one vector in place of absolute position embeddings, the same at every position: a parameter, zero at first.

    Raises:
        ValueError: max_sequence_length is not positive, slopes, sinks, sink_distance or offsets do not fit, there is no such policy,
            nothing in the model could be changed, or it is converted already by another policy.
        NotImplementedError: more than one optimizer; nothing is changed.
        RuntimeError: the optimizer does not hold a trained parameter that the surgery would remove.
    """
    if isinstance(max_sequence_length, bool) or not isinstance(max_sequence_length, int) or max_sequence_length < 1:
        raise ValueError(f"max_sequence_length must be a positive integer, not {max_sequence_length!r}.")
    _check_sinks(sinks, sink_distance)
    if offsets is not None and policy == DEFAULT_POLICY:
        raise ValueError(f"Offsets are not for the policy {policy!r}, which is textbook ALiBi.")
    optimizer = the_one(optimizers)
    roots = _outermost_models(model)
    more: dict[str, Any] = dict(
        sinks=sinks, sink_distance=sink_distance, offsets=offsets, position_vector=position_vector
    )
    if not roots and (given := [name for name, value in {"slopes": slopes, **more}.items() if value]):
        raise ValueError(
            f"{type(model).__name__} contains no transformers model, whose config would hold `{given[0]}`; policies for classes of your "
            "own are given `max_sequence_length` alone."
        )
    if isinstance(slopes, str) and slopes != "press":
        raise ValueError(f'slopes must be "press" or numbers, not {slopes!r}; calibrated ones need text: `convert`.')
    chosen: list[Slopes] = [
        get_slopes(root.config.num_attention_heads) if slopes is None or isinstance(slopes, str) else slopes
        for root in roots
    ]
    for root, values in zip(roots, chosen, strict=True):  # refuse before anything is changed
        if isinstance(root.config, AlibiConfigMixin) and policy_of(root.config) != policy:
            raise ValueError(
                f"This {type(root).__name__} is converted already, with policy {policy_of(root.config)!r}; another needs the original."
            )
        check_reach(root, policy, sinks, sink_distance)
        check_slopes(values, root.config, offsets)
    before = list(model.parameters())
    with all_or_nothing(model):
        for root, values in zip(roots, chosen, strict=True):
            _convert(root, max_sequence_length, alibi_settings(policy, values, **more))
        if not roots:
            _rewrite_own(model, max_sequence_length, policy)
        update_params_in_optimizer(before, model.parameters(), optimizer)


def _convert(root: PreTrainedModel, max_sequence_length: int, settings: dict[str, Any]) -> None:
    for config in configs_of(root):
        if not isinstance(config, AlibiConfigMixin):
            config.__class__ = config_class_for(type(config))
        unset = dict.fromkeys(key for key in OPTIONAL if getattr(config, key, None) is not None)
        for key, value in (unset | settings).items():
            setattr(config, key, value)
        config.alibi_max_sequence_length = max_sequence_length
        if policy_of(config) == DEFAULT_POLICY or not rotation_reads_length(config):
            config.max_position_embeddings = max_sequence_length
        if hasattr(config, "max_seq_len"):  # MPT, which sizes its own bias by it
            config.max_seq_len = max_sequence_length
    rewrite(root)
    _become_converted(root)
    root.set_attn_implementation(attention_of(root))


def _rewrite_own(model: torch.nn.Module, max_sequence_length: int, policy: str) -> None:
    """A module without a transformers model: its own classes alone; transformers' layers find slopes in their model's config."""
    own = {
        cls: functools.partial(function, max_sequence_length=max_sequence_length)
        for cls, function in policies(policy).items()
        if not cls.__module__.startswith("transformers.")
    }
    if not replace_modules(model, own, visit_root=True):
        raise ValueError(
            f"ALiBi surgery changed nothing: {type(model).__name__} contains no transformers model, "
            f"and none of a class that policy {policy!r} has a function for."
        )


def alibi_settings(
    policy: str,
    slopes: Slopes,
    sinks: int = 0,
    sink_distance: int | None = None,
    offsets: Slopes | None = None,
    position_vector: bool = False,
) -> dict[str, Any]:
    """What a conversion adds to a config. What has its default is left out, so that plain conversions are as version 0.1.0 wrote them."""
    settings: dict[str, Any] = {"alibi_slopes": slopes}
    if policy != DEFAULT_POLICY:
        settings["alibi_policy"] = policy
    if sinks:
        settings["alibi_sinks"] = sinks
        if sink_distance is not None:
            settings["alibi_sink_distance"] = sink_distance
    if offsets is not None:
        settings["alibi_offsets"] = offsets
    if position_vector:
        settings["alibi_position_vector"] = True
    return settings


def _check_sinks(sinks: int, distance: int | None) -> None:
    if isinstance(sinks, bool) or not isinstance(sinks, int) or sinks < 0:
        raise ValueError(f"sinks must be a whole number, 0 or more, not {sinks!r}.")
    if distance is not None and (type(distance) is not int or distance < max(1, sinks)):
        raise ValueError(f"sink_distance must be a whole number of tokens, at least {max(1, sinks)}, not {distance!r}.")


def _outermost_models(module: torch.nn.Module) -> list[PreTrainedModel]:
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in _outermost_models(child)]


def _become_converted(model: PreTrainedModel) -> None:
    """A user's own subclass keeps its class: only a stock class has a name that a checkpoint can be loaded by."""
    cls = type(model)
    if isinstance(model, AlibiModelMixin) or stock_class(cls.__name__) is not cls:
        return
    model.config.auto_map = auto_map_for(cls.config_class.model_type)
    model.__class__ = model_class_for(cls)
