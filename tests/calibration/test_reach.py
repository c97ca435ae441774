"""Slopes by reach against the definition in float64, and what they leave alone."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from alibi_cli.calibration import reach as module
from alibi_cli.calibration.added import calibrate_added
from alibi_cli.calibration.reach import fit_reach
from alibi_cli.calibration.smallest_slopes import STEEPEST, gentlest_slope
from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.errors import AlibiError
from alibi_cli.runtime.alibi_attention import HIDDEN
from tests.calibration.helpers import random_windows
from tests.calibration.shares import share_beyond, shown
from tests.models import is_encoder, sample_tokens, tiny_model

REACH, LENGTH, EPSILON = 40, 60, 0.02
SOFT: dict[str, Any] = dict(initializer_range=0.06, max_position_embeddings=1024)  # heads that look widely


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
    places = [i for i in range(LENGTH) if i > REACH + sinks or (not causal and i < LENGTH - 1 - REACH)]
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
            found_share, *shares = share_beyond(layer, head, [slope, *grid], starts[head], sinks, REACH, causal, places)
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
    places = module.sampled_queries(torch.where(torch.ones(1, 1, 400, 400).tril() > 0, -1, HIDDEN), 250, 0).tolist()
    causal = {"causal": True, "reach": 250, "sinks": 0, "offset": 200.0}
    layer = shown(converted, sample_tokens(1, 400))[0]
    shares = [
        share_beyond({**layer, "sliding_window": window}, h, [found[0][h]], **causal, places=places)[0]
        for h in range(6)
    ]
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
