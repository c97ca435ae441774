"""Classes of converted checkpoints: AlibiGPT2LMHeadModel is transformers' GPT2LMHeadModel after ALiBi surgery, AlibiGPT2Config its
GPT2Config with slopes, and so on for every class of every family.

The family's own model is built, then the registered policies rewrite it, exactly as `alibi_cli.apply_alibi` does in memory. A class is
made when its name is first asked for, so these files are the same in every checkpoint. Configurations and models are in one file because
transformers loads each file that `auto_map` names as a module of its own: two would make two classes of one name.
"""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import transformers
from transformers import PreTrainedConfig, PreTrainedModel, conversion_mapping
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .alibi_attention import ATTENTION_NAME
from .alibi_plugin import __name__ as PLUGIN
from .alibi_rewrite import attention_of, rewrite

try:
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY as RECORDERS
except ImportError:  # of versions that find them in another way
    RECORDERS = {}  # type: ignore[assignment]

# What the mix-ins are mixed into.
if TYPE_CHECKING:
    from transformers import PreTrainedConfig as StockConfig
    from transformers import PreTrainedModel as StockModel
else:
    StockConfig = StockModel = object


# The settings that one conversion of a model may have and the next one may not, {name: type}.
OPTIONAL = {
    "alibi_offsets": list | None,
    "alibi_sinks": int | None,
    "alibi_sink_distance": int | None,
    "alibi_position_vector": bool | None,
}


class AlibiConfigMixin(StockConfig):
    """What conversion adds to a family's configuration.

    alibi_policy: "replace", which is meant where it is missing: the bias stands instead of the family's positions; "add": beside them; or
    the name of a plug-in's.
    alibi_slopes: one slope per query head, or one such list per layer; each is the m of the bias -m * |i - j|.
    alibi_offsets: of the same shape; with an offset o the bias is -m * max(0, |i - j| - o). Missing: 0.
    alibi_sinks: how many first tokens of every document get no bias. Missing: 0.
    alibi_sink_distance: from how many tokens away sinks are seen at most, where a rotation is kept. Missing: from anywhere.
    alibi_rotary_scaling: the factor by which the family's rotation multiplied queries and keys, which they keep.
    alibi_position_vector: true if a constant vector, a tensor of the checkpoint, is added where position embeddings were.
    alibi_max_sequence_length: the declared maximum length. Nothing is sized by it: longer inputs run too.
    """

    @property
    def output_attentions(self) -> bool | None:
        """transformers takes only its own "eager" to know the weights of attention."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool | None) -> None:
        self._output_attentions = value

    def validate_output_attentions(self) -> None:
        pass


class AlibiModelMixin(StockModel):
    _supports_flash_attn = False
    _supports_flex_attn = False
    loss_type: Any
    _supports_attention_backend = False  # another engine's attention would drop the bias

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        rewrite(self)
        if self.loss_type is None and self.get_output_embeddings() is not None:
            self.loss_type = "ForMaskedLM" if "Masked" in type(self).__name__ else "ForCausalLM"

    def get_correct_attn_implementation(
        self, requested_attention: str | None = None, is_init_check: bool = False
    ) -> str:
        if requested_attention not in (None, "eager", "sdpa", ATTENTION_NAME):
            raise ValueError(
                f"{type(self).__name__} computes ALiBi in its own attention; "
                f"attn_implementation={requested_attention!r} would drop the bias."
            )
        # The stock model is built first, and some families choose classes by this name; `rewrite` puts ours in its place.
        return "eager" if is_init_check else attention_of(self)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """What `generate_batch` and the server begin with. Its attention gets its keys from a paged cache and a mask without distances."""
        raise NotImplementedError(
            f"{type(self).__name__} does not run with continuous batching, whatever its attn_implementation. "
            "Generate in padded batches instead: model.generate(input_ids, attention_mask=…)."
        )

    continuous_batching_context_manager = generate_batch = init_continuous_batching


def auto_map_for(base_model_type: str) -> dict[str, str]:
    """{Auto class: "file.Class"} for every Auto class of transformers that knows the base family, tokenizers aside."""
    found = {"AutoConfig": f"modeling_alibi.Alibi{CONFIG_MAPPING[base_model_type].__name__}"}
    config_class = CONFIG_MAPPING[base_model_type]
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if mapping is not None and name.startswith("AutoModel"):
            # Stock classes are listed by name, a plug-in's are registered as classes.
            known = mapping._model_mapping.get(base_model_type) or mapping._extra_content.get(config_class)
            known = known[0] if isinstance(known, (tuple, list)) else known
            cls = stock_class(known) if isinstance(known, str) else known
            if (
                getattr(cls, "config_class", None) is config_class
            ):  # else a head of another family, built around this one
                found[name] = f"modeling_alibi.Alibi{cls.__name__}"
    return found


def config_class_for(base: Any) -> Any:
    """The converted class of a transformers configuration class."""
    name = f"Alibi{base.__name__}"
    if name not in globals():
        annotations = {
            "alibi_policy": str | None,
            "alibi_slopes": list | None,
            "alibi_max_sequence_length": int | None,
            "alibi_rotary_scaling": float | None,
            **OPTIONAL,
        }
        body = {"model_type": f"alibi_{base.model_type}", "__annotations__": annotations, "__module__": __name__}
        body["_auto_class"] = "AutoConfig"  # makes save_pretrained carry these files along
        globals()[name] = type(name, (AlibiConfigMixin, base), body | dict.fromkeys(annotations))
    return globals()[name]


def model_class_for(base: Any) -> Any:
    """The converted class of a transformers model class."""
    name = f"Alibi{base.__name__}"
    if name not in globals():
        config_class = config_class_for(base.config_class)
        # Families whose files are renamed or merged on loading keep their rules, which transformers finds by class name and model type.
        for old, new in ((base.__name__, name), (base.config_class.model_type, config_class.model_type)):
            rules = conversion_mapping.get_checkpoint_conversion_mapping(old)
            if rules and conversion_mapping.get_checkpoint_conversion_mapping(new) is None:
                conversion_mapping.register_checkpoint_conversion_mapping(new, rules)
        auto_map = auto_map_for(base.config_class.model_type)
        autos = [auto for auto, target in auto_map.items() if target == f"modeling_alibi.{name}"]
        body = {"config_class": config_class, "__annotations__": {"config": config_class}, "__module__": __name__}
        body["_auto_class"] = autos[0] if autos else None  # makes save_pretrained carry these files along
        # transformers reads these answers out of the source of the class's module, which is this file, and keeps them on the class.
        of_experts = getattr(base, "_can_set_experts_implementation", bool)
        body["_can_set_experts_implementation_cached_value"] = of_experts()
        body["_can_set_attn_implementation_cached_value"] = True  # the implementation stays what it is: see above
        globals()[name] = type(name, (AlibiModelMixin, base), body)
        # What a class can record is noted by the class's name when a model is made. Surgery in memory gives a model its class later.
        dict.__setitem__(RECORDERS, str(globals()[name]), getattr(base, "_can_record_outputs", None))
        # Some heads build the model below them through AutoModel, which has to know the converted one.
        below = auto_map.get("AutoModel", "").removeprefix("modeling_alibi.")
        if below == name:
            transformers.AutoModel.register(config_class, globals()[name], exist_ok=True)
        elif below:
            __getattr__(below)
    return globals()[name]


def __getattr__(name: str) -> Any:
    base = stock_class(name.removeprefix("Alibi")) if name.startswith("Alibi") else None
    if isinstance(base, type) and issubclass(base, PreTrainedModel):
        return model_class_for(base)
    if isinstance(base, type) and issubclass(base, PreTrainedConfig):
        return config_class_for(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def stock_class(name: str) -> Any:
    """A class of transformers, or of a plug-in, by its name; None if there is none."""
    plugin = sys.modules[PLUGIN]
    places = (transformers, plugin, *getattr(plugin, "MODULES", ()))
    return next((getattr(place, name) for place in places if hasattr(place, name)), None)
