"""The registry: strict, and clear about what it refuses."""

from dataclasses import dataclass

import pytest

import alibi_cli
from alibi_cli import bench_attention
from alibi_cli.attention import registry
from alibi_cli.attention.eager import EagerConfig, eager
from alibi_cli.attention.registry import AttentionBackend, AttentionConfig, build_attention, register_attention
from alibi_cli.errors import AlibiError
from tests.attention import parity


@dataclass(frozen=True)
class ToyConfig(AttentionConfig):
    needed: int
    wanted: float = 2.0


@pytest.fixture
def clean():
    """Forgets what a test registers."""
    before = set(registry.attention_names())
    yield
    for name in set(registry.attention_names()) - before:
        registry.unregister_attention(name)


def test_a_dict_and_an_instance_build_the_same() -> None:
    assert (
        build_attention({"name": "folded", "block": 64}).config
        == build_attention(config=registry.config_of("folded")(block=64)).config
    )
    assert alibi_cli.build_attention is build_attention and alibi_cli.register_attention is register_attention


@pytest.mark.parametrize(
    ("config", "says", "hint"),
    [
        ({"name": "egaer"}, "no attention named 'egaer'", "Did you mean eager? Registered: auto, blocked, eager"),
        ({}, 'needs a "name"', "Registered: auto"),
        ({"name": "folded", "blok": 3}, "no setting 'blok'", "Did you mean block? It has block."),
        ({"name": "eager", "causal": True}, "no setting 'causal'", "It has none."),
    ],
)
def test_bad_configs(config: dict, says: str, hint: str) -> None:
    with pytest.raises(AlibiError, match=says) as caught:
        build_attention(config)
    assert hint in caught.value.hint and caught.value.exit_code == 2


def test_missing_settings_are_named(clean) -> None:
    @register_attention("toy", ToyConfig)
    class Toy(AttentionBackend):
        pass

    with pytest.raises(AlibiError, match="'toy' needs the setting needed"):
        build_attention({"name": "toy", "wanted": 1.0})
    assert isinstance(build_attention(ToyConfig(needed=1)), Toy)


def test_an_unregistered_config_is_an_error() -> None:
    with pytest.raises(AlibiError, match="ToyConfig is not the Config of a registered attention"):
        build_attention(ToyConfig(needed=1))


def test_duplicates_name_both_origins() -> None:
    def mine(query, key, value, slopes, causal, needed, wanted):
        return query

    with pytest.raises(
        ValueError, match=r"'eager' is registered already: .*eager\.py:\d+; refused: .*test_registry\.py"
    ):
        register_attention("eager", ToyConfig)(mine)
    with pytest.raises(
        ValueError, match=r"EagerConfig is the Config of the attention 'eager' already: .*eager\.py:\d+"
    ):
        register_attention("other", EagerConfig)(mine)
    assert "other" not in registry.attention_names()


def test_wrong_base_classes() -> None:
    class Plain:
        pass

    class NoDataclass(AttentionConfig):
        pass

    with pytest.raises(TypeError, match=r"Plain must be a subclass of AttentionBackend .*test_registry\.py"):
        register_attention("plain", ToyConfig)(Plain)
    for config in (Plain, NoDataclass, ToyConfig(needed=1), dict):
        with pytest.raises(TypeError, match="derived from AttentionConfig"):
            register_attention("plain", config)(eager)
    with pytest.raises(TypeError, match="neither a subclass"):
        register_attention("plain", ToyConfig)(3)
    assert "plain" not in registry.attention_names()


def test_a_new_backend_is_tested_and_benchmarked_with_no_other_edit(clean) -> None:
    @dataclass(frozen=True)
    class TwiceConfig(AttentionConfig):
        factor: float = 1.0

    @register_attention("twice", TwiceConfig)
    def twice(query, key, value, slopes, causal, factor):
        return eager(query, key, value, factor * slopes, causal)

    parity.check("twice")
    parity.check_controls("twice")
    rows = bench_attention(lengths=(32,), heads=2, head_dim=8, repeats=1).rows
    assert {row.backend for row in rows} == {"plain", *registry.attention_names()} and "twice" in {
        row.backend for row in rows
    }


def test_a_backend_that_takes_slopes_alone_refuses_the_rest_and_keeps_its_signature(clean) -> None:
    @register_attention("toy", ToyConfig)
    def toy(query, key, value, slopes, causal, needed, wanted):
        return eager(query, key, value, slopes, causal)

    backend, tensors, slopes = build_attention(ToyConfig(needed=1)), parity.tensors(), parity.slopes_for(6)
    assert backend(*tensors, slopes).equal(build_attention({"name": "eager"})(*tensors, slopes))
    near = {"sinks": 2, "near_sinks": parity.near()}
    for given, what in (
        ({"sinks": 2}, "attention sinks"),
        ({"offsets": [1.0] * 6}, "offsets"),
        (near, "attention sinks"),
    ):
        with pytest.raises(ValueError, match=f"'toy' computes no {what}"):
            backend(*tensors, slopes, **given)


def test_a_wrong_backend_fails_the_parity_tests(clean) -> None:
    @dataclass(frozen=True)
    class WrongConfig(AttentionConfig):
        pass

    @register_attention("wrong", WrongConfig)
    def wrong(query, key, value, slopes, causal):
        return eager(query, key, value, slopes * 1.001, causal)

    with pytest.raises(AssertionError, match="wrong, float64"):
        parity.check("wrong")
