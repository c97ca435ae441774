"""Positions that begin again, as in packed documents: each document is read alone, or the model says that it cannot."""

import json
from pathlib import Path

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.runtime.alibi_distances import alibi_distances
from tests.checkpoint.helpers import convert
from tests.models import FAMILIES, OWN_BIAS, is_encoder, sample_tokens, save_tiny, tiny_model

PLACES = torch.tensor([[*range(4), *range(5)]] * 2)
# Families that do not hand positions to their mask; a list that the package itself does not have.
NEVER = ["biogpt", "bloom", "falcon", "gpt_oss", "mpt", "openai", "opt", "xglm"]


def decoders() -> list[str]:
    encoders = ["albert", "bert", "camembert", "distilbert", "electra", "esm", "modernbert", "roberta", "xlm_roberta"]
    return [family for family in [*FAMILIES, *OWN_BIAS] if family not in (*encoders, "bart", "marian", "t5")]


@pytest.mark.parametrize("family", decoders())
@torch.no_grad()
def test_documents_are_read_alone_or_refused(family: str) -> None:
    model = tiny_model(family)
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 9)
    with pytest.raises(
        ValueError, match="begin again"
    ):  # transformers looks for packed documents where there is no cache
        model(tokens, position_ids=PLACES, use_cache=True)
    if family in NEVER:
        with pytest.raises(ValueError, match="begin again"):
            model(tokens, position_ids=PLACES, use_cache=False)
    else:
        packed = model(tokens, position_ids=PLACES, use_cache=False).logits
        assert (packed[:, 4:] - model(tokens[:, 4:]).logits).abs().max() < 1e-12
    whole = model(tokens).logits  # nothing is remembered
    assert torch.equal(model(tokens, position_ids=torch.arange(9)[None]).logits, whole)
    assert (whole[:, 4:] - model(tokens[:, 4:]).logits).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_encoders(family: str) -> None:
    model = tiny_model(family)
    apply_alibi(model, 64)
    assert is_encoder(model)
    with pytest.raises(ValueError, match="begin again"):
        model(sample_tokens(2, 9), position_ids=PLACES)


@torch.no_grad()
def test_the_code_of_a_checkpoint_and_of_the_package_refuse_for_each_other(tmp_path: Path) -> None:
    """Both register their functions under one name: the last one's make all masks."""
    from transformers import AttentionMaskInterface
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    convert(save_tiny("opt", tmp_path / "opt"), tmp_path / "out", check=False)
    target = json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]["AutoModelForCausalLM"]
    theirs = get_class_from_dynamic_module(target, tmp_path / "out").from_pretrained(tmp_path / "out").eval()
    registered = AttentionMaskInterface()[theirs.config._attn_implementation]
    assert registered.__module__.startswith("transformers_modules")
    ours = tiny_model("opt", torch.float32)
    apply_alibi(ours, 64)
    try:
        for function in (registered, alibi_distances):
            AttentionMaskInterface.register(theirs.config._attn_implementation, function)
            for model in (ours, theirs):
                with pytest.raises(ValueError, match="begin again"):
                    model(sample_tokens(2, 9), position_ids=PLACES, use_cache=False)
    finally:
        AttentionMaskInterface.register(theirs.config._attn_implementation, registered)


@pytest.mark.parametrize("family", ["llama", "opt", "bloom"])
@torch.no_grad()
def test_what_is_no_packing_is_not_refused(family: str) -> None:
    """Padding has any positions, and a chunk of a prefill begins where the last one ended."""
    model = tiny_model(family, torch.float32)
    apply_alibi(model, 64)
    tokens, mask = sample_tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    for pads in (0, 1):
        places = (mask.cumsum(-1) - 1).masked_fill(mask == 0, pads)
        assert model(tokens, attention_mask=mask, position_ids=places).logits[mask.bool()].isfinite().all()
    cache = model(tokens[:, :4], position_ids=torch.arange(4)[None], use_cache=True).past_key_values
    chunk = model(tokens[:, 4:], position_ids=torch.arange(4, 9)[None], past_key_values=cache).logits
    assert (chunk - model(tokens).logits[:, 4:]).abs().max() < 1e-4
    assert model.generate(tokens, attention_mask=mask, max_new_tokens=3, do_sample=False).shape == (2, 12)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gpt2", "bloom"])
@torch.no_grad()
def test_arguments_by_position_are_read_as_by_name(family: str) -> None:
    model = tiny_model(family, torch.float32)
    apply_alibi(model, 64)
    body, tokens = model.base_model, sample_tokens(2, 9)
    before_mask = (None,) if family in ("gpt2", "bloom") else ()  # past_key_values
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    padded = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    # Positions of padding go down, which is no packing.
    expected = body(input_ids=tokens, attention_mask=mask, position_ids=padded).last_hidden_state
    found = body(tokens, *before_mask, mask, position_ids=padded).last_hidden_state
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
    if family in ("llama", "gpt_oss"):  # the third argument of these
        with pytest.raises(ValueError, match="begin again"):
            body(tokens, None, PLACES, use_cache=True)
        found = body(tokens, mask, padded).last_hidden_state
        assert torch.equal(found[mask.bool()], expected[mask.bool()])
