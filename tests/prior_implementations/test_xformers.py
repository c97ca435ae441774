"""The rows X1 to X8 of xFormers, one test each; docs/prior-implementations.md lists them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import alibi_cli
from alibi_cli import bench_attention, evaluate_task
from alibi_cli.attention import registry
from alibi_cli.attention.registry import AttentionBackend, AttentionConfig, build_attention, register_attention
from alibi_cli.errors import AlibiError
from alibi_cli.runtime.alibi_attention import HIDDEN, alibi_bias, alibi_distances
from tests.attention import parity
from tests.cli.run import alibi_here


@dataclass(frozen=True)
class ToyConfig(AttentionConfig):
    gain: float = 1.0


@pytest.fixture
def toy():
    """A backend registered as xFormers' documentation registers its Nystrom attention: a subclass of the base class, with a Config."""

    @register_attention("toy", ToyConfig)
    class Toy(AttentionBackend):
        def attend(self, query, key, value, slopes, causal):
            return self.config.gain * build_attention({"name": "eager"})(query, key, value, slopes, causal)

    yield Toy
    registry.unregister_attention("toy")


def test_x1_registering_returns_the_class_and_refuses_duplicates_and_wrong_bases(toy) -> None:
    assert isinstance(toy, type) and issubclass(toy, AttentionBackend)
    assert registry.config_of("toy") is ToyConfig and type(build_attention(ToyConfig())) is toy
    with pytest.raises(
        ValueError, match=r"'toy' is registered already: .*test_xformers.py:\d+; refused: .*test_xformers"
    ):
        register_attention("toy", ToyConfig)(toy)
    with pytest.raises(TypeError, match="must be a subclass of AttentionBackend"):
        register_attention("module", ToyConfig)(torch.nn.Linear)


def test_x2_a_config_dict_is_strict_and_defaults_apply(toy) -> None:
    assert build_attention({"name": "toy"}).config == ToyConfig(gain=1.0)
    assert build_attention({"name": "toy", "gain": 2.0}).config == ToyConfig(gain=2.0)
    with pytest.raises(AlibiError, match="no setting 'dropout'"):  # there it was ignored
        build_attention({"name": "toy", "dropout": 0.1})
    with pytest.raises(AlibiError, match="no attention named 'tyo'") as caught:
        build_attention({"name": "tyo"})
    assert "Did you mean toy?" in caught.value.hint and "eager" in caught.value.hint


def test_x3_registered_once_tested_and_benchmarked_everywhere(toy, tiny_llama: Path, tmp_path: Path) -> None:
    parity.check("toy")
    alibi_here("convert", tiny_llama, "-o", tmp_path / "out", "--no-verify")
    tasks = evaluate_task("listops", str(tmp_path / "out"), lengths=(150,), samples=2, attention="toy")
    assert tasks.rows[0].status == "ok" and tasks.task.attention == "toy"
    rows = bench_attention(lengths=(16,), heads=2, head_dim=8, repeats=1).rows
    assert "toy" in {row.backend for row in rows}


def test_x4_the_registry_is_public() -> None:
    """There it was removed between 2024 and 2026; here it is part of the package's public names."""
    assert {"register_attention", "build_attention"} <= set(alibi_cli.__all__)
    assert {"eager", "sdpa", "folded"} <= set(registry.attention_names())


def test_x5_a_threshold_on_the_bias_keeps_the_nearest_keys() -> None:
    """There the bias is thresholded in the form m * k, equal to -m * |q - k| under softmax alone, and the first keys are kept instead."""
    slopes, threshold = parity.slopes_for(4), 0.6
    bias = alibi_bias(alibi_distances(1, 20, 20), slopes, torch.float64)[0]  # (H, Q, K)
    hidden = torch.finfo(torch.float64).min
    for head, slope in enumerate(slopes):
        for i in range(20):
            kept = (bias[head, i] > -threshold).nonzero().flatten().tolist()
            assert kept == [j for j in range(20) if j <= i and slope * (i - j) < threshold] and i in kept
            assert (bias[head, i, i + 1 :] == hidden).all()


def test_x6_one_bias_serves_a_batch_and_queries_are_the_last() -> None:
    """There a bias must have every dimension spelled out, and the causal mask starts at the top left: wrong after a cache."""
    query, key, value = parity.tensors(queries=3, keys=10, batch=4)
    slopes = parity.slopes_for(6)
    distances = alibi_distances(4, 3, 10, q_offset=7)
    assert distances.shape == (1, 1, 3, 10) and (distances[0, 0, 0] != HIDDEN).sum() == 8
    for name in registry.attention_names():
        out = build_attention({"name": name})(query, key, value, slopes)
        expected = parity.reference(query, key, value, slopes, True)
        assert (out - expected).abs().max() <= registry.config_of(name).tolerance["float32"]


def test_x7_lengths_that_no_kernel_likes() -> None:
    """There the strides of a 16-bit bias must be multiples of 8, more than 32k keys overflowed, rows of -inf gave NaN."""
    for name in registry.attention_names():
        backend, limits = build_attention({"name": name}), registry.config_of(name).tolerance
        for length in (1, 7, 13, 17):
            shape = dict(queries=length, keys=length, width=7, dtype=torch.bfloat16)
            assert parity.error(backend, **shape) <= limits["bfloat16"]
        assert parity.error(backend, heads=2, groups=1, queries=2, keys=40_001, batch=1) <= limits["float32"]
    nothing = torch.full((1, 1, 2, 5), HIDDEN, dtype=torch.int32)
    assert torch.isfinite(alibi_bias(nothing, [0.5], torch.float16)).all()


def test_x8_there_is_something_for_alibi() -> None:
    query, key, value = parity.tensors()
    for name in registry.attention_names():
        backend = build_attention({"name": name})
        flat = backend(query, key, value, [0.0] * 6)
        assert (backend(query, key, value, parity.slopes_for(6)) - flat).abs().max() > 1e-2
