"""Every registered backend against the reference; nothing here names one."""

from functools import partial

import pytest
import torch

from alibi_cli.attention.registry import AttentionBackend, attention_names, build_attention, config_of
from alibi_cli.errors import AlibiError
from tests.attention import parity


@pytest.mark.parametrize("name", attention_names())
def test_parity(name: str) -> None:
    parity.check(name)


@pytest.mark.parametrize("name", attention_names())
def test_steeper_slopes_are_noticed(name: str) -> None:
    parity.check_controls(name)


@pytest.mark.parametrize("name", attention_names())
def test_a_chunk_after_a_cache_equals_the_same_rows_of_the_whole(name: str) -> None:
    backend = build_attention({"name": name})
    query, key, value = parity.tensors(queries=20, keys=20)
    slopes = parity.slopes_for(6)
    for options in parity.options_of(name):
        given = parity.of_heads(options, 6)
        whole = backend(query, key, value, slopes, **given)
        chunk = backend(query[:, :, -7:], key, value, slopes, **given)
        assert (whole[:, :, -7:] - chunk).abs().max() <= 2 * config_of(name).tolerance["float32"]


@pytest.mark.parametrize("name", attention_names())
def test_an_empty_batch_stays_empty(name: str) -> None:
    for length in (5, 300):
        inputs = parity.tensors(batch=0, queries=length, keys=length)
        for given in parity.options_of(name):
            out = build_attention({"name": name})(*inputs, parity.slopes_for(6), **parity.of_heads(given, 6))
            assert out.shape == inputs[0].shape


@pytest.mark.parametrize("name", attention_names())
def test_what_does_not_fit_is_refused(name: str) -> None:
    backend = build_attention({"name": name})
    query, key, value = parity.tensors()
    for arguments, says in (
        ((query, key, value[..., :4], parity.slopes_for(6)), "do not fit together"),
        ((query[:, :5], key, value, parity.slopes_for(5)), "evenly"),
        ((query, key[:, :, :4], value[:, :, :4], parity.slopes_for(6)), "more than the 4 keys"),
        ((query, key, value, parity.slopes_for(5)), "6 slopes"),
    ):
        with pytest.raises(ValueError, match=says):
            backend(*arguments)
    assert config_of(name).takes_sinks  # as do all that come with the package
    for sinks in (-1, 1.5, True):
        with pytest.raises(ValueError, match="sinks must be a whole number"):
            backend(query, key, value, parity.slopes_for(6), sinks=sinks)
    with pytest.raises(ValueError, match="6 query heads need 6 offsets, not shape"):
        backend(query, key, value, parity.slopes_for(6), offsets=[1.0])
    with pytest.raises(ValueError, match="5 sinks that are seen from at most 4 tokens are too many"):
        backend(query, key, value, parity.slopes_for(6), sinks=5, near_sinks=parity.near())
    if not config_of(name).symmetric:
        with pytest.raises(ValueError, match="causal only"):
            backend(query, key, value, parity.slopes_for(6), causal=False)
    if not parity.has_gradients(name):
        with pytest.raises(ValueError, match="no gradients on cpu"):
            backend(query.requires_grad_(), key, value, parity.slopes_for(6))


def test_a_smaller_block_is_more_exact_at_any_length_and_a_bad_one_is_refused() -> None:
    def worst(block: int, length: int) -> float:
        query, key, value = parity.tensors(heads=4, groups=4, queries=length, keys=length, batch=1, width=16)
        slopes = parity.slopes_for(4)
        exact = build_attention({"name": "eager"})(*(t.double() for t in (query, key, value)), slopes)
        backend: AttentionBackend = build_attention({"name": "folded", "block": block})
        return (backend(query, key, value, slopes).double() - exact).abs().max().item()

    assert worst(64, 2048) < worst(2048, 2048) / 4
    assert worst(64, 2048) < 3 * worst(64, 512)  # the error does not grow with the length
    for block in (0, -1, 1.5, True):
        with pytest.raises(AlibiError, match="positive whole number"):
            build_attention({"name": "folded", "block": block})


def test_no_bias_is_held_in_memory_by_folded() -> None:
    from alibi_cli.attention.benchmark import peak_of_allocations

    query, key, value = parity.tensors(heads=8, groups=8, queries=1024, keys=1024, batch=1, width=16)
    bias = 8 * 1024 * 1024 * 4
    peaks = {}
    with torch.no_grad():
        for name in ("folded", "sdpa", "eager"):
            attend = partial(build_attention({"name": name}), query, key, value, parity.slopes_for(8), sinks=3)
            peaks[name] = peak_of_allocations(attend)
    assert peaks["folded"] < bias / 4 and peaks["sdpa"] > bias and peaks["eager"] > 2 * bias
