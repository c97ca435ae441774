"""Configurations of every family that a policy is registered for, drawn by Hypothesis: what can differ between models of one family."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from alibi_cli.models.families import family_policies
from alibi_cli.slopes import get_slopes
from tests.models import MODEL_TYPES, OWN_BIAS, SPECIFIC, tiny_model

FLAGS = (
    "attention_bias", "mlp_bias", "use_bias", "bias", "qkv_bias", "use_qkv_bias", "use_parallel_residual", "parallel_attn", "qk_layernorm",
    "use_qk_norm", "do_layer_norm_before", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings",
    "scale_embedding", "normalize_before", "layer_norm_elementwise_affine", "norm_topk_prob",
)  # fmt: skip
ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Drawn:
    """A model and its conversion. changes: of the family's tiny configuration. shard: max_shard_size. settings: of `convert`."""

    family: str
    changes: dict[str, Any] = field(hash=False)
    dtype: str
    shard: str
    settings: dict[str, Any] = field(hash=False)
    per_layer: bool
    seed: int

    def build(self) -> PreTrainedModel:
        """
        Raises:
            Exception: transformers does not have such a model.
        """
        return tiny_model(self.family, torch.float32, **self.changes)

    def write(self, folder: Path, model: PreTrainedModel) -> None:
        model.to(getattr(torch, self.dtype)).save_pretrained(folder, max_shard_size=self.shard)

    def slopes(self, folder: Path, model: PreTrainedModel) -> dict[str, Any]:
        """A file of slopes for each layer, as a setting; nothing for Press's."""
        if not self.per_layer:
            return {}
        press, layers = get_slopes(model.config.num_attention_heads), model.config.num_hidden_layers
        path = folder / "slopes.json"
        path.write_text(json.dumps([[m * (1 + 0.1 * layer) for m in press] for layer in range(layers)]))
        return {"slopes": str(path)}


@st.composite
def drawn_models(draw: Any) -> Drawn:
    policy = draw(st.sampled_from(["replace", "add"]))
    family = draw(st.sampled_from(sorted(family_policies(policy))))
    stock = CONFIG_MAPPING[MODEL_TYPES.get(family, family)]()
    own = SPECIFIC.get(family, {})
    heads, size = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.sampled_from([4, 8, 12]))
    layers = draw(st.integers(1, 3))
    if family == "codegen":
        heads = 4 * draw(st.integers(1, 2))
    longest = 4 * draw(st.integers(2, 12))
    changes: dict[str, Any] = dict(
        vocab_size=257,
        num_attention_heads=heads,
        hidden_size=heads * size,
        num_hidden_layers=layers,
        intermediate_size=draw(st.sampled_from([8, 20, 64])),
        max_position_embeddings=longest,
    )
    if "head_dim" in own:
        changes |= {"head_dim": size, "hidden_size": draw(st.sampled_from([heads * size, 24, 40]))}
    if "num_key_value_heads" in own:
        changes["num_key_value_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    changes |= _of_family(draw, family, heads, size, layers, longest)
    for name in FLAGS:
        if isinstance(getattr(stock, name, None), bool) and draw(st.booleans()):
            changes[name] = not getattr(stock, name)
    changes |= _windows(draw, own, layers)
    rotation = getattr(stock, "rope_parameters", None)
    if isinstance(rotation, dict) and "rope_type" in rotation and draw(st.booleans()):
        changes["rope_parameters"] = _rope(draw, size, longest, rotation)
    # Elsewhere layers cannot have slopes of their own, which is refused.
    one_attention_a_layer = changes.get("num_hidden_groups", layers) == layers and not stock.is_encoder_decoder
    settings: dict[str, Any] = {"policy": policy, "max_sequence_length": longest * draw(st.integers(1, 4))}
    if family not in OWN_BIAS:
        settings["sinks"] = draw(st.sampled_from([0, 0, 1, 3]))
        if policy == "add" and draw(st.booleans()):
            settings["offset"] = draw(st.integers(1, longest))
    return Drawn(
        family=family,
        changes=changes,
        dtype=draw(st.sampled_from(DTYPES)),
        shard=draw(st.sampled_from(["1GB", "40kB", "12kB"])),
        settings=settings,
        per_layer=one_attention_a_layer and draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def _of_family(draw: Any, family: str, heads: int, size: int, layers: int, longest: int) -> dict[str, Any]:
    """Names that a family has for itself, so that its sizes agree."""
    width = heads * size
    both = {"encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads,
            "decoder_attention_heads": heads}  # fmt: skip
    found: dict[str, dict[str, Any]] = {
        "albert": {"num_hidden_groups": draw(st.sampled_from([1, layers]))},
        "bart": both,
        "marian": both,
        "t5": {"d_kv": size, "num_decoder_layers": layers},
        "mpt": {"max_seq_len": longest},
        "electra": {"embedding_size": draw(st.sampled_from([width, 16]))},
        "opt": {"word_embed_proj_dim": draw(st.sampled_from([width, 16]))},
        "gptj": {"rotary_dim": draw(st.sampled_from([2, 4]))},
        "codegen": {"rotary_dim": draw(st.sampled_from([2, 4]))},
        "gpt_neo": {"attention_types": [[["global", "local"][: draw(st.integers(1, 2))], layers]]},
        "falcon": draw(
            st.sampled_from(
                [
                    {"multi_query": False},
                    {"multi_query": True},
                    {"new_decoder_architecture": True, "num_kv_heads": draw(st.sampled_from([1, heads]))},
                ]
            )
        ),
    }
    if family == "gpt_neo":
        kinds, times = found["gpt_neo"]["attention_types"][0]
        found["gpt_neo"]["num_hidden_layers"] = len(kinds) * times
    return found.get(family, {})


def _windows(draw: Any, own: dict[str, Any], layers: int) -> dict[str, Any]:
    window = draw(st.integers(2, 20))
    if "layer_types" in own:
        kinds = st.lists(st.sampled_from(own["layer_types"]), min_size=layers, max_size=layers)
        return {"sliding_window": window, "layer_types": draw(kinds)}
    return {"sliding_window": draw(st.sampled_from([None, window]))} if "sliding_window" in own else {}


def _rope(draw: Any, size: int, longest: int, stock: dict[str, Any]) -> dict[str, Any]:
    kind = draw(st.sampled_from(ROPES))
    found = {**stock, "rope_type": kind, "rope_theta": draw(st.sampled_from([100.0, 10_000.0, 500_000.0]))}
    rotated = int(size * stock.get("partial_rotary_factor", 1.0))
    factor, original = draw(st.sampled_from([2.0, 4.0])), max(2, longest // 4)
    if kind != "default":
        found["factor"] = factor
    if kind in ("yarn", "longrope", "llama3"):
        found["original_max_position_embeddings"] = original
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "longrope":
        found |= {"short_factor": [1.0] * (rotated // 2), "long_factor": [factor] * (rotated // 2)}
    return found
