"""Slopes by reach against the definition in float64, and what they leave alone."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from alibi_cli.attention.in_models import registered
from alibi_cli.calibration import reach as module
from alibi_cli.calibration.added import calibrate_added
from alibi_cli.calibration.farther import Beyond, copies_of
from alibi_cli.calibration.reach import fit_reach
from alibi_cli.calibration.smallest_slopes import STEEPEST, gentlest_slope
from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.errors import AlibiError
from alibi_cli.runtime import alibi_policies
from alibi_cli.runtime.alibi_attention import HIDDEN, alibi_attention
from tests.calibration.helpers import random_windows
from tests.models import is_encoder, sample_tokens, tiny_model

REACH, LENGTH, EPSILON = 40, 60, 0.02
EPSILON_FAR = module.EPSILON
SOFT: dict[str, Any] = dict(initializer_range=0.06, max_position_embeddings=1024)  # heads that look widely


def shown(converted: torch.nn.Module, tokens: torch.Tensor) -> list[dict[str, Any]]:
    """What each layer of a converted model attends with: queries and keys (B, H, K, D) with the options of its scores."""
    caught = []

    def catch(layer: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        kept = {name: options.get(name) for name in ("scaling", "softcap", "s_aux", "sliding_window")}
        limit, near = getattr(layer.config, "alibi_sink_distance", None), None
        if limit is not None:
            near = limit, layer.alibi_rotation[0].inv_freq.double().numpy()
        caught.append({"query": query.numpy(), "key": key.repeat_interleave(groups, 1).numpy(), "near": near, **kept})
        return alibi_attention(layer, query, key, value, mask, **options)

    with registered(catch), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(alibi_policies, "alibi_attention", catch)  # GPT-J calls it by its name
        converted(input_ids=tokens)
    return caught


def share_beyond(
    layer: dict[str, Any], head: int, slopes: Any, offset: float, sinks: int, reach: int, causal: bool
) -> np.ndarray:
    """The mean weight beyond `reach` of queries that have keys there, one query after the other, under each of (G,) slopes."""
    shares = []
    windows, keys = layer["query"].shape[0], layer["key"].shape[2]
    scaling = layer["scaling"] or layer["query"].shape[-1] ** -0.5
    for window in range(windows):
        for i in PLACES:
            distance = abs(i - np.arange(keys))
            seen = np.arange(keys) <= i if causal else np.ones(keys, bool)
            if layer["sliding_window"]:
                seen &= distance < layer["sliding_window"]
            query = layer["query"][window, head, i]
            scores = layer["key"][window, head] @ query * scaling
            if layer["near"] is not None and sinks:  # which are seen from where they were trained to be seen
                limit, frequencies = layer["near"]
                angle = np.concatenate([frequencies, frequencies]) * min(0, limit - i)
                half = len(frequencies)
                turned = query * np.cos(angle) + np.concatenate([-query[half:], query[:half]]) * np.sin(angle)
                scores[:sinks] = layer["key"][window, head, :sinks] @ turned * scaling
            if layer["softcap"]:
                scores = layer["softcap"] * np.tanh(scores / layer["softcap"])
            free = np.arange(keys) < sinks
            ramp = np.where(free, 0, np.maximum(0, distance - offset))
            weights = np.where(seen, np.exp(scores - np.outer(slopes, ramp)), 0)  # (G, K)
            total = weights.sum(-1)
            if layer["s_aux"] is not None:
                total += math.exp(layer["s_aux"][head].item())
            shares.append(weights[:, (distance > reach) & ~free].sum(-1) / total)
    return np.mean(shares, axis=0)


PLACES: list[int] = []


@pytest.mark.parametrize(
    ("family", "sinks", "changes"),
    [
        ("llama", 0, {}),
        ("llama, sinks as if near", 4, {}),
        ("llama", 3, {}),
        ("gptj", 2, {}),
        ("esm", 0, {}),
        ("modernbert", 1, {"local_attention": 8}),
        ("mistral", 0, {"sliding_window": 50}),  # which ends beyond the range
        ("gemma2", 2, {"sliding_window": 7}),
        ("gpt_oss", 0, {"sliding_window": 50}),
    ],
)
def test_slopes_are_the_smallest_that_hide_what_lies_beyond(family, sinks, changes, monkeypatch):
    near = 20 if "near" in family else None
    model = tiny_model(family.partition(",")[0], **SOFT, **changes)
    tokens, causal = sample_tokens(2, LENGTH), not is_encoder(model)
    heads = model.config.num_attention_heads
    offsets = [[0.0, 5.0, 10.0, 20.0, 30.0, 36.0, 38.0, 39.0][:heads], [float(REACH - 8)] * heads]
    before = {name: p.clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(module, "QUERIES", 1000)  # all that have keys beyond the range
    PLACES[:] = [i for i in range(LENGTH) if i > REACH + sinks or (not causal and i < LENGTH - 1 - REACH)]
    settings = {"policy": "add", "sinks": sinks, "sink_distance": near, "offsets": offsets}
    converted = converted_twin(model, [[0.3] * heads] * 2, LENGTH, **settings)
    found = fit_reach(converted, tokens, REACH, EPSILON)
    gentlest, step = gentlest_slope(REACH, EPSILON), 1.02
    grid = gentlest * step ** np.arange(math.ceil(math.log(STEEPEST / gentlest, step)) + 1)
    kinds = set()
    # Another model, with the slopes that were found: each layer sees what the layers before it hand on.
    converted = converted_twin(model, found, LENGTH, **settings)
    for layer, slopes, starts in zip(shown(converted, tokens), found, offsets, strict=True):
        for head, slope in enumerate(slopes):
            found_share, *shares = share_beyond(layer, head, [slope, *grid], starts[head], sinks, REACH, causal)
            if slope == pytest.approx(gentlest):
                kinds.add("gentlest")
                assert shares[0] <= EPSILON
                continue
            fits = [m for m, each in zip(grid, shares, strict=True) if each <= EPSILON]
            assert all(later < earlier for earlier, later in pairwise(shares))
            kinds.add("between" if fits else "steepest")
            assert slope == pytest.approx(fits[0] if fits else STEEPEST, rel=step - 1)
            assert fits == [] or found_share == pytest.approx(EPSILON, rel=2e-3)
    assert "between" in kinds, kinds
    if family in ("modernbert", "gemma2"):  # of which one layer's window ends within the range
        assert "gentlest" in kinds
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", ["llama", "gptj", "esm", "gemma2", "phi", "llama-yarn"])
def test_the_last_token_sees_at_extrapolated_distances_what_it_sees_in_a_text_that_repeats_itself(family, monkeypatch):
    """The first layer, whose keys depend on nothing but their token, sees in a window thrice what is extrapolated from one."""
    changes = {} if "yarn" in family else {"initializer_range": 0.3, "max_position_embeddings": 1024}
    changes |= {"sliding_window": 1024} if family == "gemma2" else {}
    model = tiny_model(family, **changes)
    tokens, heads = sample_tokens(1, LENGTH), model.config.num_attention_heads
    at = 0 if (encoder := is_encoder(model)) else LENGTH - 1
    monkeypatch.setattr(module, "sampled_queries", lambda *_: torch.tensor([at]))
    settings = {"policy": "add", "offsets": [float(REACH)] * heads}
    shares = {}
    for beyond in (None, Beyond(REACH, 3 * LENGTH)):
        converted = converted_twin(model, [0.3] * heads, LENGTH, **settings)
        slopes = fit_reach(converted, tokens, REACH, 0.5, beyond=beyond)[0]
        converted = converted_twin(model, [0.3] * heads, LENGTH, **settings)
        layer = shown(converted, tokens.repeat(1, 3))[0]
        PLACES[:] = [0 if encoder else 3 * LENGTH - 1]
        reached = [share_beyond(layer, h, [m], REACH, 0, LENGTH - 1, not encoder)[0] for h, m in enumerate(slopes)]
        shares[beyond] = np.array(reached), np.array(slopes)
    (before, gentle), (after, steep) = shares.values()
    known = before <= EPSILON_FAR
    assert not known.all() and (before[~known] > 1.05 * EPSILON_FAR).any()
    assert after[~known] == pytest.approx(EPSILON_FAR, rel=5e-3) and (steep[~known] > gentle[~known]).all()
    assert after[known] == pytest.approx(before[known]) and (steep[known] == gentle[known]).all()


@pytest.mark.parametrize(
    ("family", "changes", "beyond"),
    [
        # What is farther away than its window is hidden: within what calibration reads, at its end, and beyond it.
        *(("mistral", {"sliding_window": window}, Beyond(REACH, 600)) for window in (50, LENGTH - 1, LENGTH)),
        ("mistral", {"sliding_window": None}, Beyond(REACH, LENGTH)),  # the windows hold it all
    ],
)
def test_what_cannot_be_seen_is_not_extrapolated(family, changes, beyond):
    model = tiny_model(family, **{**SOFT, "initializer_range": 0.3}, **changes)
    found = []
    for each in (None, beyond, Beyond(REACH, 600)):
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=each))
    assert found[0] == found[1]
    assert (found[0] == found[2]) == (changes["sliding_window"] is not None)


def test_a_sliding_window_ends_what_is_extrapolated():
    found = []
    for window, length in ((62, 600), (None, 62), (None, 600)):
        model = tiny_model("mistral", **{**SOFT, "initializer_range": 0.3}, sliding_window=window)
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=Beyond(REACH, length)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize(("trained", "length"), [(10, 100), (30, 107), (30, 30), (10, 20), (10, 21)])
def test_copies_are_those_of_a_loop(encoder, sinks, trained, length):
    keys = 20
    places = torch.tensor([0, 4, 9, 15, 19] if encoder else [14, 15, 19])
    seen = torch.ones(1, len(places), keys, dtype=torch.bool)
    if not encoder:
        seen = (torch.arange(keys) <= places[:, None])[None]
    found: list[set[tuple[int, int, int]]] = [set() for _ in places]
    for copy in copies_of(Beyond(trained, length), places, seen, sinks):
        for row, place in enumerate(places.tolist()):
            for key in copy.seen[0, row].nonzero().flatten().tolist():
                sign = -1 if encoder and place < keys // 2 - 0.5 else 1
                assert copy.distance[row, key] == sign * (copy.turned[row] + place - key)  # as far as it was turned
                found[row].add((key, copy.distance[row, key].item(), sign))
    for row, place in enumerate(places.tolist()):
        ahead = encoder and place < keys // 2 - 0.5
        side = range(place, keys) if ahead else range(place, -1, -1)  # from near to far
        expected, distance = set(), max(keys, trained)
        while distance < length:
            for key in side:
                if key >= sinks and distance < length:
                    expected.add((key, distance, -1 if ahead else 1))
                distance += 1
        assert found[row] == expected, place


def test_a_length_without_end_is_looked_at_as_far_as_anything_can_be_seen(monkeypatch):
    model = tiny_model("mistral", **{**SOFT, "initializer_range": 0.3}, sliding_window=None)
    found = []
    for nats, length in ((30.0, 1 << 31), (1e9, 2000), (0.01, 2000)):
        monkeypatch.setattr(module, "NEGLIGIBLE", nats)
        converted = converted_twin(model, [0.3] * 6, LENGTH, policy="add", sinks=2, offsets=[float(REACH)] * 6)
        found.append(fit_reach(converted, sample_tokens(2, LENGTH), REACH, 0.5, beyond=Beyond(REACH, length)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("window", [None, 280, 230])
def test_long_windows_are_read_without_a_matrix_of_distances(window, monkeypatch):
    """Beyond one block of queries, the mask is held as spans; a window of 280 ends beyond the range of 250, one of 230 within it."""
    made = []
    monkeypatch.setattr(module.Compact, "__torch_function__", classmethod(lambda *a, **k: _remembered(made, *a, **k)))
    model = tiny_model("mistral", torch.float32, **SOFT, sliding_window=window)
    converted = converted_twin(model, [[0.3] * 6] * 2, 400, policy="add", offsets=[[200.0] * 6] * 2)
    found = np.array(fit_reach(converted, sample_tokens(1, 400), 250, EPSILON))
    assert not made
    gentlest = gentlest_slope(250, EPSILON)
    monkeypatch.undo()
    PLACES[:] = module.sampled_queries(torch.where(torch.ones(1, 1, 400, 400).tril() > 0, -1, HIDDEN), 250, 0).tolist()
    causal = {"causal": True, "reach": 250, "sinks": 0, "offset": 200.0}
    layer = shown(converted, sample_tokens(1, 400))[0]
    shares = [share_beyond({**layer, "sliding_window": window}, h, [found[0][h]], **causal)[0] for h in range(6)]
    if window == 230:
        assert found == pytest.approx(gentlest) and max(shares) == 0
    else:
        assert (found > 1.01 * gentlest).all() and shares == pytest.approx([EPSILON] * 6, rel=5e-3)


_of_compact = module.Compact.__dict__["__torch_function__"].__func__


def _remembered(made: list[Any], cls: type, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    before = torch.Tensor.numel
    result = _of_compact(cls, function, types, args, kwargs)
    if isinstance(result, torch.Tensor) and before(result) >= 400 * 400:
        made.append(function)
    return result


@pytest.mark.parametrize("family", ["llama", "esm", "modernbert", "mistral", "gptj", "gemma2", "llama-yarn"])
def test_within_the_range_nothing_changes(family):
    model = tiny_model(family, torch.float32, **({} if "yarn" in family else SOFT))
    reach = 16
    found = calibrate_added(model, random_windows(3, 24), reach)
    assert found.offsets == [[float(reach)] * len(found.slopes[0])] * 2 and found.kl == {} and found.curve is None
    converted = converted_twin(model, found.slopes, 24, policy="add", sinks=found.sinks, offsets=found.offsets)
    with torch.no_grad():
        within, beyond = (
            (converted(input_ids=t).logits - model(input_ids=t).logits).abs().max().item()
            for t in (sample_tokens(2, reach), sample_tokens(2, 60))
        )
    assert within < 2e-6
    assert beyond > 1e-3 or family == "mistral"  # whose windows of 7 end within the range


def test_offset_and_sinks_are_taken_as_given():
    model = tiny_model("llama", torch.float32)
    assert calibrate_added(model, random_windows(2, 24), 16, offset=0, sinks=2).offsets is None
    found = calibrate_added(model, random_windows(2, 24), 16, offset=5, sinks=2)
    assert found.offsets == [[5.0] * 6] * 2 and found.sinks == 2
    assert not hasattr(model.config, "alibi_slopes") and not list(attention_modules(model))


def test_what_cannot_be_fitted_is_an_error():
    model = tiny_model("llama", torch.float32)
    with pytest.raises(AlibiError, match="do not reach beyond 24"):
        calibrate_added(model, random_windows(2, 24), 24)
    with pytest.raises(AlibiError, match="does not show its queries and keys"):
        calibrate_added(tiny_model("falcon", torch.float32), random_windows(2, 24), 16)
    model.model.layers[1].self_attn.q_proj.weight.data[0] = math.nan
    with pytest.raises(AlibiError, match="scores that are not finite"):
        calibrate_added(model, random_windows(2, 24), 16, sinks=0)
