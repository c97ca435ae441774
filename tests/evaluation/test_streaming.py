"""StreamingLLM's positions: whole models against attention by loops, and one layer against a model that is fed a cache's tokens alone."""

import pytest
import torch

from alibi_cli import AlibiError
from alibi_cli.evaluation import window_attention
from alibi_cli.evaluation.arms import arm_of, limits_of
from tests.cli.run import alibi_inside
from tests.evaluation.test_window_attention import WITH_WINDOWS
from tests.models import OLD_MAX, sample_tokens, save_tiny, skeleton, tiny_model
from tests.reference import textbook

LENGTH, SIZE, SINKS = 48, 20, 4
# Layers that do not rotate, by default every fourth; and layers with windows of their own, the only ones that do, which would stay.
CHANGES = {"smollm3": {"no_rope_layers": [1, 0]}, "cohere2": {"sliding_window": 30}}
TURNING = [name for name in WITH_WINDOWS if limits_of(skeleton(name)).no_turning is None]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 8)


def by_textbook(model: torch.nn.Module, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch, farthest: int | None):
    """Logits with attention by loops in float64; queries meet the first tokens from `farthest` positions after the first at most."""
    arms = SIZE - SINKS

    def visible(kind, own, b, i, keys):
        near, first = (arms, SINKS) if own is None or own > SIZE else (own, 0)
        return torch.tensor([j for j in range(i + 1) if i - j < near or j < first]).numpy()

    slopes = [0.0] * model.config.num_attention_heads
    with monkeypatch.context() as patch:
        patch.setattr(textbook, "_visible", visible)
        options = dict(slopes=slopes, keep_positions=True, sinks=SINKS, sink_distance=farthest)
        return textbook.textbook_logits(model, ids, **options)


def test_nearly_all_rotary_decoders_can_have_it() -> None:
    assert len(TURNING) >= 22 and {"llama", "cohere2", "gpt_neox", "gpt_oss", "gemma3", "llama-yarn"} <= set(TURNING)


@torch.no_grad()
@pytest.mark.parametrize("family", TURNING)
def test_whole_models_equal_the_textbook(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = CHANGES.get(family, {})
    model, ids = tiny_model(family, max_position_embeddings=64, **changes), sample_tokens(2, LENGTH)
    plain = model(input_ids=ids, use_cache=False).logits
    with arm_of(model, f"streaming:{SIZE}", trained_length=64, length=LENGTH):
        found = model(input_ids=ids, use_cache=False).logits
    assert (found - by_textbook(model, ids, monkeypatch, SIZE - 1)).abs().max() <= 1e-4  # angles are float32
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)
    assert not [module for module in model.modules() if hasattr(module, "alibi_rotation")]
    assert (found - plain)[:, :SIZE].abs().max() <= 2e-5
    for other in (SIZE, SIZE - 2, None):  # the controls: one position off, and where they are in the text
        assert (found - by_textbook(model, ids, monkeypatch, other)).abs().max() > 1e-3, other


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "cohere", "gpt_neox", "gpt_oss", "phi3", "llama-yarn"])
def test_a_layer_sees_what_the_cache_of_streaming_llm_holds(family: str) -> None:
    """One layer: with more, what is in the window has itself seen what no longer is."""
    changes = {"layer_types": ["full_attention"]} if family == "gpt_oss" else {}
    model = tiny_model(family, num_hidden_layers=1, max_position_embeddings=64, **changes)
    ids = sample_tokens(1, LENGTH)
    with arm_of(model, f"streaming:{SIZE}", trained_length=64, length=LENGTH):
        found = model(input_ids=ids).logits
        cache = model(input_ids=ids[:, :30]).past_key_values
        rest = [model(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in range(30, LENGTH)]
    assert (torch.cat(rest, 1) - found[:, 30:]).abs().max() <= 1e-10
    for last in (SIZE - 1, SIZE, 33, LENGTH - 1):
        kept = torch.cat([ids[:, :SINKS], ids[:, max(SINKS, last - (SIZE - SINKS) + 1) : last + 1]], dim=1)
        assert kept.shape[1] == SIZE
        assert (found[:, last] - model(input_ids=kept).logits[:, -1]).abs().max() <= 1e-4
    with arm_of(model, f"window+sinks:{SIZE}", trained_length=64, length=LENGTH):
        assert (model(input_ids=ids).logits - found)[:, SIZE:].abs().max() > 1e-3


def test_a_model_without_a_rotation_is_refused(tmp_path) -> None:
    folder = save_tiny("gpt2", tmp_path / "the-model")
    result = alibi_inside("eval", folder, "--lengths", "12,24", "--arms", "streaming:12", code=2)
    assert "the-model cannot have the arm streaming:12: it has no rotary positions" in " ".join(result.stderr.split())
    arm = arm_of(tiny_model("opt"), "streaming:12", trained_length=OLD_MAX, length=LENGTH)
    with pytest.raises(AlibiError, match="no rotary positions"), arm:
        pass
