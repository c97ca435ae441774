"""Configurations of converted models: AlibiGPT2Config is transformers' GPT2Config with slopes, and so on for every family.

The class is made when its name is first asked for, so these files are the same in every checkpoint.
"""

import transformers


class AlibiConfigMixin:
    """What conversion adds to a family's configuration.

    alibi_slopes: one slope per query head, or one such list per layer; each is the m of the bias -m * |i - j|.
    alibi_max_sequence_length: the length that the checkpoint promises. Nothing is sized by it: longer inputs run too.
    """


def config_class_for(base):
    """The converted configuration class of a transformers configuration class."""
    return _get(f"Alibi{base.__name__}", base)


def _get(name, base):
    if name not in globals():
        fields = {"alibi_slopes": None, "alibi_max_sequence_length": None}
        annotations = {"alibi_slopes": list | None, "alibi_max_sequence_length": int | None}
        body = {
            "model_type": f"alibi_{base.model_type}",
            "__annotations__": annotations,
            "__module__": __name__,
            **fields,
        }
        body["_auto_class"] = "AutoConfig"  # makes save_pretrained carry this file along
        globals()[name] = type(name, (AlibiConfigMixin, base), body)
    return globals()[name]


def __getattr__(name):
    base = getattr(transformers, name.removeprefix("Alibi"), None) if name.startswith("Alibi") else None
    if not (isinstance(base, type) and issubclass(base, transformers.PreTrainedConfig)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _get(name, base)
