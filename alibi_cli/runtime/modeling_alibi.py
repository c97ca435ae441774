"""Models of converted checkpoints: AlibiGPT2LMHeadModel is transformers' GPT2LMHeadModel after ALiBi surgery, and so on.

The family's own class is built, then the registered policies rewrite it, exactly as `alibi_cli.apply_alibi` does in memory. The
class is made when its name is first asked for, so these files are the same in every checkpoint.
"""

import functools

import transformers
from transformers import conversion_mapping
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .alibi_attention import ATTENTION_NAME
from .alibi_policies import NoPosition, NoRotation, policy_registry
from .alibi_surgery import replace_modules
from .configuration_alibi import config_class_for


class AlibiModelMixin:
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False  # another engine's attention would drop the bias

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        rewrite(self)
        if (
            self.loss_type is None
            and hasattr(self, "get_output_embeddings")
            and self.get_output_embeddings() is not None
        ):
            self.loss_type = "ForMaskedLM" if "Masked" in type(self).__name__ else "ForCausalLM"

    def get_correct_attn_implementation(self, requested_attention=None, is_init_check=False):
        if requested_attention not in (None, "eager", "sdpa", ATTENTION_NAME):
            raise ValueError(
                f"{type(self).__name__} computes ALiBi in its own attention; "
                f"attn_implementation={requested_attention!r} would drop the bias."
            )
        return ATTENTION_NAME


def rewrite(model):
    """Applies the policies to a model whose config holds the slopes.

    Raises:
        ValueError: the config's slopes do not fit, or the surgery did not reach both the attention and the positions.
    """
    check_slopes(model.config.alibi_slopes, model.config)
    length = model.config.alibi_max_sequence_length
    bound = {
        cls: functools.partial(policy, max_sequence_length=length) for cls, policy in policy_registry.loaded().items()
    }
    changed = replace_modules(model, bound, visit_root=True)
    biased = {module for module in model.modules() if getattr(module, "alibi_slopes", None) is not None}
    layers = model.config.num_hidden_layers
    if isinstance(model.config.alibi_slopes[0], (list, tuple)) and len(biased) != layers:
        raise ValueError(
            f"{type(model).__name__} has {len(biased)} attention modules for {layers} layers: slopes per layer do not fit it."
        )
    if not biased:
        raise ValueError(f"ALiBi surgery changed nothing: no policy knows the attention of {type(model).__name__}.")
    if biased.issuperset(changed) and not any(
        isinstance(module, (NoPosition, NoRotation)) for module in model.modules()
    ):
        raise ValueError(
            f"ALiBi surgery is incomplete: no policy knows where {type(model).__name__} keeps its positions."
        )


def check_reach(model):
    """Raises ValueError if no policy is registered for any module of the model."""
    known = tuple(policy_registry.loaded())
    if not any(isinstance(module, known) for module in model.modules()):
        raise ValueError(f"ALiBi surgery changed nothing: no policy knows the modules of {type(model).__name__}.")


def check_slopes(slopes, config):
    """Raises ValueError unless `slopes` are finite, not negative, and one per query head: once, or once per layer."""
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    if not slopes:
        raise ValueError(
            "config.alibi_slopes is missing: it holds one slope per attention head, or one list per layer."
        )
    per_layer = slopes if isinstance(slopes[0], (list, tuple)) else [slopes] * layers
    if len(per_layer) != layers or any(len(layer) != heads for layer in per_layer):
        raise ValueError(f"config.alibi_slopes must hold {heads} slopes, or {layers} lists of {heads}, one per layer.")
    if not all(0 <= slope < float("inf") for layer in per_layer for slope in layer):
        raise ValueError("config.alibi_slopes must be finite and not negative.")


def auto_map_for(base_model_type):
    """{Auto class: "file.Class"} for every Auto class of transformers that knows the base family, tokenizers aside."""
    found = {"AutoConfig": f"configuration_alibi.Alibi{CONFIG_MAPPING[base_model_type].__name__}"}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(
            getattr(auto, "_model_mapping", None), "_model_mapping", None
        )  # names: nothing is imported by reading them
        if mapping is not None and name.startswith("AutoModel") and base_model_type in mapping:
            classes = mapping[base_model_type]
            found[name] = f"modeling_alibi.Alibi{classes if isinstance(classes, str) else classes[0]}"
    return found


def model_class_for(base):
    """The converted class of a transformers model class."""
    return _get(f"Alibi{base.__name__}", base)


def _get(name, base):
    if name not in globals():
        config_class = config_class_for(base.config_class)
        # Families whose files are renamed or merged on loading keep their rules, which transformers finds by class name and model type.
        for old, new in ((base.__name__, name), (base.config_class.model_type, config_class.model_type)):
            rules = conversion_mapping.get_checkpoint_conversion_mapping(old)
            if rules and conversion_mapping.get_checkpoint_conversion_mapping(new) is None:
                conversion_mapping.register_checkpoint_conversion_mapping(new, rules)
        autos = [
            auto for auto, target in auto_map_for(base.config_class.model_type).items() if target.endswith(f".{name}")
        ]
        body = {"config_class": config_class, "__annotations__": {"config": config_class}, "__module__": __name__}
        body["_auto_class"] = autos[0] if autos else None  # makes save_pretrained carry these files along
        globals()[name] = type(name, (AlibiModelMixin, base), body)
    return globals()[name]


def __getattr__(name):
    base = getattr(transformers, name.removeprefix("Alibi"), None) if name.startswith("Alibi") else None
    if not (isinstance(base, type) and issubclass(base, transformers.PreTrainedModel)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _get(name, base)
