"""Windows with sinks: attention and whole models, each against a computation of its own."""

import math

import numpy as np
import pytest
import torch

from alibi_cli import AlibiError
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.evaluation import window_attention
from alibi_cli.evaluation.arms import Limits, arm_of, limits_of
from alibi_cli.evaluation.window_attention import attend, note_rule
from tests.models import FAMILIES, MODELS, OLD_MAX, is_encoder, sample_tokens, skeleton, tiny_model

ROTATIONS = ("linear", "dynamic", "yarn")
LENGTH = 48


def by_loops(query: np.ndarray, key: np.ndarray, value: np.ndarray, window: int, sinks: int) -> np.ndarray:
    """(H, Q, D) float64 attention, one score after the other: causal, the last `window` keys and the first `sinks`."""
    heads, n, width = query.shape
    out = np.zeros_like(query)
    for h in range(heads):
        group = h // (heads // key.shape[0])
        for i in range(n):
            allowed = [j for j in range(i + 1) if i - j < window or j < sinks]
            scores = [float(query[h, i] @ key[group, j]) / math.sqrt(width) for j in allowed]
            weights = [math.exp(score - max(scores)) for score in scores]
            for j, weight in zip(allowed, weights, strict=True):
                out[h, i] += weight / sum(weights) * value[group, j]
    return out


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (7, 0), (7, 4), (1, 4), (20, 3), (64, 0)])
def test_attention_is_that_of_the_definition(window: int, sinks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, h, 37, 8, generator=generator, dtype=torch.float64) for h in (4, 2, 2))
    rule = note_rule(37, 37, window=window, sinks=sinks)
    found = attend(torch.nn.Module().eval(), query, key, value, rule)[0][0].transpose(0, 1).numpy()
    arrays = query[0].numpy(), key[0].numpy(), value[0].numpy()
    assert np.abs(found - by_loops(*arrays, window, sinks)).max() <= 1e-12
    if window < 37:  # the controls: one token more, one sink more
        assert np.abs(found - by_loops(*arrays, window + 1, sinks)).max() > 1e-3
        assert np.abs(found - by_loops(*arrays, window, sinks + 1)).max() > 1e-3


def dense(model: torch.nn.Module, ids: torch.Tensor, window: int, sinks: int) -> torch.Tensor:
    """Logits of the model's own eager attention with an explicit mask of all queries and keys."""
    n = ids.shape[1]
    own = getattr(model.config, "sliding_window", None) if "sliding_attention" in layers_of(model) else None
    masks = {}
    sliding = (window, sinks) if own is None or own > window + sinks else (own, 0)
    for name, (near, first) in (("full_attention", (window, sinks)), ("sliding_attention", sliding)):
        mask = torch.full((1, 1, n, n), torch.finfo(torch.float64).min, dtype=torch.float64)
        for i in range(n):
            for j in range(i + 1):
                if i - j < near or j < first:
                    mask[0, 0, i, j] = 0
        masks[name] = mask
    before, options = model.config._attn_implementation, {}
    if not getattr(model.config, "reorder_and_upcast_attn", False):  # which cannot be eager in float64
        model.config._attn_implementation = "eager"
    if model.config.model_type == "opt":  # which counts positions from a mask of two dimensions
        options["position_ids"] = torch.arange(n)[None]
    try:
        with torch.no_grad():
            mask = masks if own is not None else masks["full_attention"]
            return model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    finally:
        model.config._attn_implementation = before


def layers_of(model: torch.nn.Module) -> list[str]:
    return getattr(model.config, "layer_types", None) or ["full_attention"]


WITH_WINDOWS = [
    name
    for name in MODELS
    if not (model := skeleton(name)).config.is_encoder_decoder
    and limits_of(model, is_encoder(model)).no_window is None
    and (limits_of(model).own_window or LENGTH) > 20
]


def test_most_decoders_can_have_windows() -> None:
    assert len(WITH_WINDOWS) >= 25 and {"llama", "gpt2", "gemma2", "gpt_oss", "gpt_neox"} <= set(WITH_WINDOWS)


@pytest.mark.parametrize("family", WITH_WINDOWS)
@pytest.mark.parametrize(("arm", "window", "sinks"), [("window:20", 20, 0), ("window+sinks:20", 16, 4)])
def test_windows_of_whole_models_equal_a_dense_mask(
    family: str, arm: str, window: int, sinks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_attention, "BLOCK", 8)
    model, ids = tiny_model(family, max_position_embeddings=64), sample_tokens(2, LENGTH)
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
        with arm_of(model, arm, trained_length=64, length=LENGTH):
            found = model(input_ids=ids, use_cache=False).logits
        after = model(input_ids=ids, use_cache=False).logits
    assert (found - dense(model, ids, window, sinks)).abs().max() <= 2e-5  # some families round weights to float32
    assert torch.equal(after, plain) and (found - plain)[:, :20].abs().max() <= 2e-5
    assert (found - plain)[:, 20:].abs().max() > 1e-3  # the controls: no arm, another window, no sinks
    assert (found - dense(model, ids, window - 1, sinks)).abs().max() > 1e-3
    assert (found - dense(model, ids, window + sinks, 0)).abs().max() > 1e-3 or sinks == 0


def test_layers_with_a_window_of_their_own() -> None:
    """Those of gemma2 see 7 tokens: a larger arm leaves them, a smaller one takes their place."""
    model, ids = tiny_model("gemma2", max_position_embeddings=64), sample_tokens(1, LENGTH)
    for arm, window, sinks in (("window:5", 5, 0), ("window+sinks:6", 2, 4), ("window+sinks:20", 16, 4)):
        with torch.no_grad(), arm_of(model, arm, trained_length=64, length=LENGTH):
            found = model(input_ids=ids, use_cache=False).logits
        assert (found - dense(model, ids, window, sinks)).abs().max() <= 2e-5


def test_a_cache_continues_within_the_arm() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, 40)
    with torch.no_grad(), arm_of(model, "window+sinks:12", trained_length=OLD_MAX, length=40):
        whole = model(input_ids=ids).logits
        cache = model(input_ids=ids[:, :30]).past_key_values
        rest = [model(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in range(30, 40)]
    assert (torch.cat(rest, 1) - whole[:, 30:]).abs().max() <= 1e-10


def test_within_its_reach_an_arm_is_the_original() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, OLD_MAX)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for arm in ("full", "window", "window+sinks", *ROTATIONS):
            with arm_of(model, arm, trained_length=OLD_MAX, length=OLD_MAX):
                assert torch.equal(model(input_ids=ids).logits, plain)


def test_a_model_is_put_back_after_an_error() -> None:
    model, ids = tiny_model("llama"), sample_tokens(1, LENGTH)
    rotation, attention = model.model.rotary_emb, model.config._attn_implementation
    for arm in ("window", "yarn"):
        with pytest.raises(ZeroDivisionError), arm_of(model, arm, trained_length=OLD_MAX, length=LENGTH):
            raise ZeroDivisionError
    assert model.model.rotary_emb is rotation and model.config._attn_implementation == attention
    with (
        pytest.raises(AlibiError, match="feed it the last 24"),
        arm_of(model, "truncated", trained_length=24, length=48),
    ):
        model(input_ids=ids)
    padding = torch.ones_like(ids)
    padding[0, 0] = 0
    with pytest.raises(AlibiError, match="padding"), arm_of(model, "window", trained_length=24, length=48):
        model(input_ids=ids, attention_mask=padding)


def test_windows_hold_nothing_of_length_by_length() -> None:
    """4,096 tokens, a window of 256: one mask of all queries and keys in float32 would be 64 MiB, all scores four times that."""
    length, window = 4096, 256
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, length, 8, generator=generator) for _ in range(3))
    rule, module = note_rule(length, length, window=window, sinks=4), torch.nn.Module().eval()
    peak = peak_of_allocations(lambda: attend(module, query, key, value, rule))
    block = window_attention.BLOCK * (window + window_attention.BLOCK)
    assert peak <= 5 * query.nbytes + 16 * block, peak / query.nbytes
    assert peak < 4 * length * length / 2


def test_a_model_some_of_whose_layers_attend_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    layer = model.model.layers[1].self_attn
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(AlibiError, match="1 of its 2 layers"), arm_of(model, "window", trained_length=24, length=48):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_encoders_are_refused_windows() -> None:
    assert {limits_of(skeleton(family), True).no_window for family in FAMILIES if is_encoder(skeleton(family))} == {
        "windows are for models that predict the next token"
    }
    assert Limits() == Limits(None, None, None)
