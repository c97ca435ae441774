"""BLOOM and MPT, which have ALiBi already: their slopes become those that were asked for, and nothing else changes.

In float32: both families compute their softmax in it, whatever the model's type.
"""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alibi_cli import apply_alibi, get_slopes
from tests.cli.run import alibi
from tests.models import OLD_MAX, OWN_BIAS, sample_tokens, save_tiny, tiny_model

CLOSE = 2e-5
SLOPES = [0.3, 0.02, 0.11, 0.07, 0.9, 0.004]


def pair(family: str, slopes: list[float]):
    stock = tiny_model(family, torch.float32)
    converted = copy.deepcopy(stock)
    apply_alibi(converted, 4 * OLD_MAX, slopes=slopes)
    return stock, converted


@torch.no_grad()
def logits(model, tokens: torch.Tensor, **inputs) -> torch.Tensor:
    return model(input_ids=tokens, **inputs).logits


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("family", OWN_BIAS)
def test_press_slopes_change_nothing_and_others_do(family: str) -> None:
    tokens = sample_tokens(2, 20)
    stock, converted = pair(family, get_slopes(6))
    assert difference(logits(converted, tokens), logits(stock, tokens)) <= CLOSE
    _, other = pair(family, SLOPES)
    assert difference(logits(other, tokens), logits(stock, tokens)) > 1e-3


@pytest.mark.parametrize("family", OWN_BIAS)
def test_the_attention_of_a_layer_equals_the_definition(family: str) -> None:
    """Its weights, read from the model, against softmax(scores - m|i - j|) from the same queries and keys in float64."""
    _, model = pair(family, SLOPES)
    layer = model.transformer.h[0].self_attention if family == "bloom" else model.transformer.blocks[0].attn
    seen: dict[str, torch.Tensor] = {}
    layer.register_forward_hook(lambda module, args, output: seen.update(weights=output[1]))
    projection = layer.query_key_value if family == "bloom" else layer.Wqkv
    projection.register_forward_hook(lambda module, args, output: seen.update(qkv=output))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        model(input_ids=sample_tokens(1, 15), output_attentions=True, use_cache=False)
    qkv = seen["qkv"][0].double()  # (L, 3 * 48)
    if family == "bloom":
        query, key, _ = qkv.view(15, 6, 3, 8).unbind(2)
    else:
        query, key, _ = (part.view(15, 6, 8) for part in qkv.chunk(3, -1))
    weights = seen["weights"].reshape(6, 15, 15).double().numpy()
    for head, i in np.ndindex(6, 15):
        scores = np.array(
            [float(query[i, head] @ key[j, head]) / math.sqrt(8) - SLOPES[head] * (i - j) for j in range(i + 1)]
        )
        expected = np.exp(scores - scores.max())
        assert np.abs(weights[head, i, : i + 1] - expected / expected.sum()).max() <= 1e-6


@pytest.mark.parametrize("family", OWN_BIAS)
def test_cache_padding_length_and_reload(family: str, tmp_path: Path) -> None:
    _, model = pair(family, SLOPES)
    tokens = sample_tokens(1, 3 * OLD_MAX)
    whole = logits(model, tokens)
    with torch.no_grad():
        first = model(input_ids=tokens[:, :30], use_cache=True)
        second = model(input_ids=tokens[:, 30:], past_key_values=first.past_key_values, use_cache=True)
    assert difference(torch.cat([first.logits, second.logits], 1), whole) <= CLOSE
    pads = torch.full((1, 5), 1)
    mask = torch.cat([torch.zeros_like(pads), torch.ones(1, 20, dtype=torch.long)], 1)
    padded = logits(model, torch.cat([pads, tokens[:, :20]], 1), attention_mask=mask)[:, 5:]
    assert difference(padded, logits(model, tokens[:, :20])) <= CLOSE
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert difference(logits(reloaded.eval(), tokens), whole) == 0


@pytest.mark.parametrize("family", OWN_BIAS)
def test_converted_on_disk(family: str, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / "source")
    result = alibi("convert", source, "-o", tmp_path / "out", "--max-bias", "16", "--max-sequence-length", "96")
    assert "has ALiBi already" in result.stderr and "(at most 1e-05)" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    stock = AutoModelForCausalLM.from_pretrained(source).eval()
    tokens = torch.arange(3, 23)[None]
    assert difference(logits(model, tokens), logits(stock, tokens)) > 1e-3
    assert logits(model, torch.arange(90)[None]).shape[1] == 90
