"""Sinks that are seen from a distance at most, in every family whose rotation is kept, against the textbook, in float64.

The textbook asks the family's own function for the rotation of another position, whose angles are float32: a position's cosine is not that
of a product of two others to the last bit.
"""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.models.families import family_policies, sink_distance
from alibi_cli.runtime.alibi_attention import ATTENTION_NAME
from alibi_cli.runtime.alibi_positions import rotates
from tests.models import OLD_MAX, is_encoder, sample_tokens, tiny_config, tiny_model
from tests.reference.test_rotations import KINDS, settings_of
from tests.reference.textbook import textbook_logits

SINKS, NEAR, LENGTH = 3, 5, 20
CLOSE, VISIBLE = 1e-4, 1e-3
SETTINGS = {"policy": "add", "sinks": SINKS, "sink_distance": NEAR}
WITHOUT = ("t5", "falcon")
NAMES = [name for name in (*family_policies("add"), "llama-yarn", "qwen2-window") if name not in WITHOUT]
# SmolLM 3 and Cohere 2 with layers that do not rotate, which by default are every fourth.
CHANGES = {"smollm3": {"no_rope_layers": [1, 0]}}


def pair(name: str, **changes):
    """(stock model, converted copy)"""
    stock = tiny_model(name, **CHANGES.get(name, {}), **changes)
    converted = copy.deepcopy(stock)
    apply_alibi(converted, 4 * OLD_MAX, **SETTINGS)
    return stock, converted


@torch.no_grad()
def logits(model, tokens: torch.Tensor, **inputs) -> torch.Tensor:
    return model(input_ids=tokens, **inputs).logits


def textbook(stock, tokens: torch.Tensor, **changes) -> torch.Tensor:
    return textbook_logits(stock, tokens, keep_positions=True, **{"sinks": SINKS, "sink_distance": NEAR, **changes})


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_textbook_and_controls_do_not(name: str) -> None:
    stock, converted = pair(name)
    tokens = sample_tokens(2, LENGTH)
    ours = logits(converted, tokens)
    assert difference(ours, textbook(stock, tokens)) <= CLOSE
    for what, change in {"no limit": None, "farther": NEAR + 1, "nearer": NEAR - 1}.items():
        assert difference(ours, textbook(stock, tokens, sink_distance=change)) > VISIBLE, what
    interleaved = {"cohere", "cohere2", "glm", "gptj", "codegen"}
    modules = [module for module in converted.modules() if hasattr(module, "alibi_rotation")]
    assert {module.alibi_rotation[1] for module in modules} == {name in interleaved}
    if name in ("gpt_neox", "stablelm"):
        return  # which rotate a single pair of dimensions here
    for module in modules:  # what must be noticed: the other kind of rotation
        module.alibi_rotation = module.alibi_rotation[0], not module.alibi_rotation[1]
    assert difference(logits(converted, tokens), ours) > VISIBLE


@pytest.mark.parametrize("name", ["smollm3", "cohere2"])
def test_layers_that_do_not_rotate_are_left_alone(name: str) -> None:
    _, converted = pair(name)
    linked = [module for module in converted.modules() if getattr(module, "alibi_slopes", None)]
    assert {rotates(module) for module in linked} == {True, False}
    assert all(hasattr(module, "alibi_rotation") == rotates(module) for module in linked)
    tokens = sample_tokens(2, LENGTH)
    ours = logits(converted, tokens)
    rotation = next(module.alibi_rotation for module in linked if rotates(module))
    for module in linked:
        module.alibi_rotation = rotation
    assert difference(logits(converted, tokens), ours) > VISIBLE


@pytest.mark.parametrize("name", NAMES)
def test_padded_packed_cached_and_saved(name: str, tmp_path: Path) -> None:
    stock, converted = pair(name)
    tokens = sample_tokens(1, LENGTH)
    whole = logits(converted, tokens)
    pads, mask = torch.full((1, 4), 1), torch.tensor([[0] * 4 + [1] * LENGTH])
    padded = logits(converted, torch.cat([pads, tokens], 1), attention_mask=mask)[:, 4:]
    assert difference(padded, whole) <= 2e-4  # by later positions, whose angles are float32
    reference = textbook(stock, torch.cat([pads, tokens], 1), padding=mask)[:, 4:]
    assert difference(padded, reference) <= CLOSE
    if not is_encoder(converted):
        cache, pieces, start = None, [], 0
        for size in (1, 7, 6, 1, 1, LENGTH - 16):
            with torch.no_grad():
                output = converted(input_ids=tokens[:, start : start + size], past_key_values=cache, use_cache=True)
            cache, start = output.past_key_values, start + size
            pieces.append(output.logits)
        assert difference(torch.cat(pieces, 1), whole) <= 1e-10
        options = dict(max_new_tokens=14, do_sample=False, eos_token_id=None, pad_token_id=1)
        options["attention_mask"] = torch.ones_like(tokens)
        written = converted.generate(tokens, use_cache=False, **options)
        assert torch.equal(converted.generate(tokens, use_cache=True, **options), written)
        assert torch.equal(converted.generate(tokens, cache_implementation="static", **options), written)
    if not is_encoder(converted) and name != "gpt_oss":  # whose stock code knows no packing
        places = torch.cat([torch.arange(LENGTH), torch.arange(9)])[None]
        other = sample_tokens(1, 9, seed=3)
        packed = logits(converted, torch.cat([tokens, other], 1), position_ids=places, use_cache=False)
        assert difference(packed[:, :LENGTH], whole) <= 1e-10
        assert difference(packed[:, LENGTH:], logits(converted, other)) <= 1e-10
    converted.save_pretrained(tmp_path)
    options = {"experts_implementation": "eager"} if hasattr(converted.config, "num_experts_per_tok") else {}
    reloaded = type(converted).from_pretrained(tmp_path, dtype=torch.float64, **options).eval()
    assert reloaded.config.alibi_sink_distance == NEAR and reloaded.config.alibi_sinks == SINKS
    if name != "gemma":  # its embedding scale is rounded to float32 on loading, converted or not
        assert torch.equal(logits(reloaded, tokens), whole)
    apply_alibi(converted, 4 * OLD_MAX, policy="add", sinks=SINKS)
    assert converted.config.alibi_sink_distance is None
    assert difference(logits(converted, tokens), textbook(stock, tokens, sink_distance=None)) <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_the_frequencies_are_those_in_force(kind: str) -> None:
    """Dynamic NTK and LongRoPE change theirs with the length of what is read: short, long, short again."""
    stock, converted = pair(KINDS[kind][0], **settings_of(kind))
    for length in (OLD_MAX // 2, OLD_MAX + 8, OLD_MAX // 2):
        tokens = sample_tokens(1, length)
        ours = logits(converted, tokens)
        assert difference(ours, textbook(stock, tokens)) <= CLOSE, length
        assert difference(ours, textbook(stock, tokens, sink_distance=None)) > VISIBLE
        assert difference(ours, textbook(stock, tokens, sink_distance=NEAR + 1)) > VISIBLE


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("t5", {}, "has no rotation that its attention could turn back"),
        ("falcon", {}, "has no rotation that its attention could turn back"),
        ("llama", {"policy": "replace"}, "has no rotation that its attention could turn back"),
        ("gpt2", {"policy": "replace"}, "has no rotation that its attention could turn back"),
        ("llama", {"sink_distance": SINKS - 1}, "sink_distance must be a whole number of tokens, at least 3"),
        ("llama", {"sink_distance": 0, "sinks": 0}, "sink_distance must be a whole number of tokens, at least 1"),
        ("llama", {"sink_distance": 8.0}, "sink_distance must be"),
        ("llama", {"sink_distance": True}, "sink_distance must be"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_changed(name: str, settings: dict, says: str) -> None:
    model, tokens = tiny_model(name, torch.float32), sample_tokens(1, 9)
    inputs = {"decoder_input_ids": tokens} if name == "t5" else {}
    expected, before = logits(model, tokens, **inputs), model.config.to_dict()
    with pytest.raises(ValueError, match=says):
        apply_alibi(model, 64, **{**SETTINGS, **settings})
    assert model.config.to_dict() == before and "Alibi" not in type(model.config).__name__ + type(model).__name__
    assert torch.equal(logits(model, tokens, **inputs), expected)


def test_the_distance_of_a_conversion_is_the_trained_length_where_a_rotation_can_be_turned_back() -> None:
    for name in family_policies("add"):
        wanted = None if name in WITHOUT else OLD_MAX
        assert sink_distance(tiny_config(name), "add", 2) == wanted
        assert sink_distance(tiny_config(name), "add", 0) is None
        assert sink_distance(tiny_config(name), "replace", 2) is None
    assert sink_distance(tiny_config("llama"), "add", OLD_MAX + 1) == OLD_MAX + 1


@pytest.mark.parametrize("name", ["llama", "gemma3", "gptj", "glm"])
def test_compiled_equals_eager(name: str) -> None:
    _, model = pair(name)
    for padding in (None, torch.tensor([[1] * 30, [0] * 12 + [1] * 18])):
        tokens = sample_tokens(2, 30)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        expected = logits(model, tokens, use_cache=False, attention_mask=padding)
        found = logits(compiled, tokens, use_cache=False, attention_mask=padding)
        sees = torch.ones_like(tokens).bool() if padding is None else padding.bool()
        assert (found - expected)[sees].abs().max() <= 1e-12
        torch.compiler.reset()


def test_one_mask_serves_layers_with_and_without_a_distance() -> None:
    """What is found once per forward lives on the mask, beside the bias."""
    _, converted = pair("llama")
    tokens = sample_tokens(1, LENGTH)
    expected = logits(converted, tokens)
    first = converted.model.layers[0].self_attn
    first.config = SimpleNamespace(
        **{**vars(first.config), "alibi_sink_distance": None, "_attn_implementation": ATTENTION_NAME}
    )
    mixed = logits(converted, tokens)
    assert difference(mixed, expected) > VISIBLE
    first.config.alibi_sink_distance = NEAR
    assert torch.equal(logits(converted, tokens), expected)
