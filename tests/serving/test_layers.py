"""The vLLM plug-in without vLLM: what it gives each attention layer, and what it refuses. `make engines` runs the real one."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from alibi_cli.runtime.modeling_alibi import config_class_for
from alibi_cli.serving.layers import OWN, Attentions, bias_of
from alibi_cli.serving.rotations import rotation_of
from alibi_cli.serving.routes import BACKEND, NATIVE, architectures, check, stock_type

PER_LAYER = [[0.5, 0.25, 0.125, 0.0625], [0.4, 0.3, 0.2, 0.1]]


def config(**changes: Any) -> Any:
    settings = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64, "alibi_slopes": PER_LAYER}
    return config_class_for(LlamaConfig)(**{**settings, **changes})


class FakeAttention:
    """Keeps what it was given; its backend is the one that a platform would choose."""

    chosen = "CPU_ATTN"

    def __init__(self, num_heads: int, head_size: int, scale: float = 1.0, **given: Any) -> None:
        self.num_heads, self.head_size, self.given = num_heads, head_size, given
        name = OWN if "attn_backend" in given else self.chosen
        self.attn_backend = SimpleNamespace(get_name=lambda: name)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for the few functions of vLLM that layers.py asks."""
    state = SimpleNamespace(rank=0, is_cpu=True, widths=[32, 64])
    kernel = SimpleNamespace(supports_head_size=lambda width: width in state.widths)
    names: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.distributed": {"get_tensor_model_parallel_rank": lambda: state.rank},
        "vllm.model_executor.models.utils": {
            "extract_layer_index": lambda prefix: next(int(part) for part in prefix.split(".") if part.isdigit())
        },
        "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: state.is_cpu)},
        "vllm.v1.attention.backends.registry": {
            "AttentionBackendEnum": SimpleNamespace(CPU_ATTN=SimpleNamespace(get_class=lambda: kernel))
        },
        "alibi_cli.serving.own_attention": {"AlibiBackend": "own"},
    }
    for name, contents in names.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(FakeAttention, "chosen", "CPU_ATTN")
    return state


def test_every_layer_gets_its_own_slopes(vllm: SimpleNamespace):
    attentions = Attentions(config())
    make = attentions.of(FakeAttention)
    layers = [make(4, 32, 1.0, prefix=f"model.layers.{n}.self_attn.attn") for n in range(2)]
    assert [layer.given["alibi_slopes"] for layer in layers] == PER_LAYER
    attentions.check_count("LlamaForCausalLM", 2)
    with pytest.raises(ValueError, match="made 2 attention layers with slopes, for 3 layers"):
        attentions.check_count("LlamaForCausalLM", 3)


def test_a_rank_gets_the_slopes_of_its_heads(vllm: SimpleNamespace):
    vllm.rank = 1
    layer = Attentions(config()).of(FakeAttention)(2, 32, prefix="model.layers.1.attn")
    assert layer.given["alibi_slopes"] == [0.2, 0.1]
    assert bias_of(config(alibi_slopes=PER_LAYER[0]), 1, 2, 1).slopes == [0.125, 0.0625]


def test_slopes_of_the_familys_own_are_replaced(vllm: SimpleNamespace):
    layer = Attentions(config()).of(FakeAttention)(4, 32, prefix="h.0.attn", alibi_slopes=[9.0] * 4)
    assert layer.given["alibi_slopes"] == PER_LAYER[0]


@pytest.mark.parametrize(
    ("changes", "width", "own"),
    [
        ({}, 32, False),
        ({"alibi_offsets": [0.0] * 4}, 32, False),
        ({"alibi_offsets": [0.0, 0.0, 0.0, 1.0]}, 32, True),
        ({"alibi_sinks": 1}, 32, True),
        ({}, 16, True),
    ],
)
def test_what_kernels_have_no_room_for_gets_our_own_attention(
    changes: dict[str, Any], width: int, own: bool, vllm: SimpleNamespace
):
    layer = Attentions(config(**changes)).of(FakeAttention)(4, width, prefix="layers.0")
    assert ("attn_backend" in layer.given) == own
    if own:
        assert layer.given["bias"].slopes == PER_LAYER[0]


def test_widths_are_asked_of_cpus_alone(vllm: SimpleNamespace):
    vllm.is_cpu = False
    FakeAttention.chosen = "FLASH_ATTN"
    assert "attn_backend" not in Attentions(config()).of(FakeAttention)(4, 16, prefix="layers.0").given


@pytest.mark.parametrize("backend", ["FLASHINFER", "FLEX_ATTENTION", "SOMETHING_NEW"])
def test_a_backend_that_may_drop_the_bias_is_refused(
    backend: str, vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FakeAttention, "chosen", backend)
    with pytest.raises(ValueError, match=f"{backend} does not compute ALiBi. Its attention backends FLASH_ATTN"):
        Attentions(config()).of(FakeAttention)(4, 32, prefix="layers.0")


def test_what_vllm_would_get_wrong_is_refused():
    check(config())
    check(config(alibi_policy="add"))
    with pytest.raises(ValueError, match="Policy 'mine' is a plug-in's"):
        check(config(alibi_policy="mine"))
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match="kind 'dynamic', which depends on the length"):
        check(config(alibi_policy="add", rope_parameters=dynamic))
    check(config(rope_parameters=dynamic))  # is gone


def test_rotations_are_those_of_transformers():
    kept = config(alibi_policy="add", rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    rotation, interleaved = rotation_of(kept)
    assert not interleaved
    torch.testing.assert_close(rotation.inv_freq, 1e4 ** -(torch.arange(0, 16, 2) / 16))
    assert stock_type(kept) == "llama"


def test_every_family_has_one_route():
    assert not set(NATIVE) & set(BACKEND)
    names = architectures()
    assert len(names) == len(NATIVE) + len(BACKEND)
    assert names["AlibiLlamaForCausalLM"] == "native"
    assert names["AlibiGPTNeoXForCausalLM"] == "transformers_backend"
