"""One query at a time, as in decoding: exact, nothing that is cached is copied, and what layers share is computed once."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.runtime.alibi_attention import alibi_attention, alibi_distances
from tests.attention import test_near_sinks as near
from tests.attention.test_sinks import layer, qkv
from tests.models import sample_tokens, tiny_model


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", ["causal", "padding", "padding inside", "window"])
@pytest.mark.parametrize("dtype", near.TOLERANCE)
@torch.no_grad()
def test_one_query(groups: int, mask: str, dtype: torch.dtype) -> None:
    distances, seen, sink = near.of_mask(mask, queries=1)
    q, k, v = near.qkv(queries=1, groups=groups, batch=len(seen))
    s_aux = torch.tensor([0.3, -1.0, 2.0, 0.0])
    for interleaved in (False, True):
        for options in (dict(), dict(offsets=near.OFFSETS), dict(softcap=3.0), dict(s_aux=s_aux)):
            oracle = partial(near.by_loops, q, k, v, seen, sink, interleaved)
            exact, tolerance = oracle(**options), near.TOLERANCE[dtype]
            found = near.ours(q, k, v, distances, dtype, interleaved, **options)
            assert (found - exact).abs().max() <= tolerance, (interleaved, options)
            if dtype == torch.float64:
                kept = near.ours(q, k, v, distances, dtype, interleaved, keeps=True, **{**options, "s_aux": None})
                assert (kept - oracle(**{**options, "s_aux": None})).abs().max() <= tolerance
                assert near.wrong(exact, oracle, 1e-3, **options) or mask == "window"  # which hides the sinks
                order = [1, 0, 3, 2]  # heads of a group that change places
                changed = near.by_loops(q[:, order], k, v, seen, sink, interleaved, **options)
                assert (changed - exact).abs().max() > 1e-3


@torch.no_grad()
def test_no_rows_and_no_keys_to_spare() -> None:
    q, k, v = qkv(1, 9, heads=4, groups=2)
    assert alibi_attention(layer(), q[:0], k[:0], v[:0], alibi_distances(0, 1, 9, q_offset=8))[0].shape == (0, 1, 4, 8)
    of_one = alibi_attention(layer(), q, k[:, :, :1], v[:, :, :1], alibi_distances(1, 1, 1))[0]
    assert torch.equal(of_one[0, 0], v[0, :, 0].repeat_interleave(2, dim=0))


@torch.no_grad()
def test_what_is_cached_is_not_copied() -> None:
    q, k, v = qkv(1, 4000, heads=4, groups=2, width=64)
    distances = alibi_distances(1, 1, 4000, q_offset=3999)
    attend = partial(alibi_attention, layer(), q, k, v, distances)
    attend()  # makes the bias
    assert peak_of_allocations(attend) < k.nbytes / 8
    assert peak_of_allocations(lambda: k.repeat_interleave(2, dim=1)) >= 2 * k.nbytes  # which would be noticed


@pytest.mark.parametrize("settings", [dict(sinks=2), dict(policy="add", sinks=2, sink_distance=10)], ids=str)
@torch.no_grad()
def test_layers_share_distances_bias_and_angles(settings: dict) -> None:
    def work(layers: int) -> dict[str, int]:
        model = tiny_model("llama", torch.float32, num_hidden_layers=layers)
        apply_alibi(model, 100, **settings)
        tokens = sample_tokens(1, 31)
        cache = model(tokens[:, :29], use_cache=True).past_key_values
        model(tokens[:, 29:30], past_key_values=cache)  # each layer makes its line of biases
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            model(tokens[:, 30:], past_key_values=cache)
        return {event.key: event.count for event in profile.key_averages()}

    few, many = work(2), work(6)
    for name in ("aten::arange", "aten::cos", "aten::max", "aten::eye", "aten::masked_fill"):
        assert few.get(name, 0) == many.get(name, 0), name
    assert few["aten::arange"] and ("policy" not in settings or few["aten::eye"])
    assert many["aten::scaled_dot_product_attention"] == 3 * few["aten::scaled_dot_product_attention"]


def test_the_line_that_a_layer_keeps_follows_every_change() -> None:
    """One module from step to step, against its own general path: a copy of the distances says nothing of a row."""
    module, steep, in_place = layer([0.5, 0.25, 0.125, 0.0625]), [0.7, 0.3, 0.2, 0.1], list.reverse
    calls: list[tuple[int, dict]] = [(keys, {}) for keys in (255, 256, 257, 600, 3, 1)]
    calls += [
        (600, {"dtype": torch.float64}),
        (600, {"groups": 4}),
        (600, {"dtype": torch.bfloat16, "batch": 2}),
        (600, {}),
    ]
    changes = [
        lambda: setattr(module, "alibi_slopes", steep),
        lambda: in_place(module.alibi_slopes),
        lambda: setattr(module, "alibi_offsets", [0.0, 30.0, 5.0, 400.0]),
        lambda: in_place(module.alibi_offsets),
        lambda: setattr(module, "alibi_offsets", None),
    ]
    before = None
    for change in [None, *changes]:
        if change is not None:
            change()
        for keys, options in calls:
            q, k, v = qkv(1, keys, **{"groups": 2, "width": 16, **options})
            row = alibi_distances(1, 1, keys, q_offset=keys - 1, config=SimpleNamespace(alibi_sinks=2))
            with torch.inference_mode():
                found = alibi_attention(module, q, k, v, row)[0]
            exact = alibi_attention(module, q, k, v, row.clone())[0]
            assert (found - exact).abs().max() <= (6e-2 if q.dtype == torch.bfloat16 else 1e-5), (keys, options)
        assert before is None or (found - before).abs().max() > 1e-3, "this change would not be noticed"
        before = found
    q, k, v = qkv(1, 600, groups=2, width=16, requires_grad=True)
    row = alibi_distances(1, 1, 600, q_offset=599)
    gradients = [
        torch.autograd.grad(alibi_attention(module, q, k, v, d)[0].sum(), (q, k, v)) for d in (row, row.clone())
    ]
    assert all((one - other).abs().max() <= 1e-5 for one, other in zip(*gradients, strict=True))
    assert module.alibi_line[1].shape[-1] < 1.5 * 600 and not module.alibi_line[1].is_inference()


@torch.no_grad()
def test_another_length_slopes_or_rotation_is_not_taken_for_the_one_before() -> None:
    """Layers of one model may differ; what they share is kept on the mask that all of them receive."""
    distances, seen, sink = near.of_mask("causal", queries=1)
    q, k, v = near.qkv(queries=1)
    for options in (
        dict(),
        dict(slopes=[1.0, 0.1, 0.01, 0.5]),
        dict(width=4),
        dict(limit=20),
        dict(offsets=near.OFFSETS),
        dict(),
    ):
        exact = near.by_loops(q, k, v, seen, sink, **options)
        assert (near.ours(q, k, v, distances, **options) - exact).abs().max() <= 1e-12, options
