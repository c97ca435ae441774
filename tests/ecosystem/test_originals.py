"""What goes wrong with the originals too: docs/compatibility.md says so, and what to do instead."""

import pytest
import torch

from alibi_cli import apply_alibi
from tests.models import sample_tokens, tiny_model

PLACES = torch.tensor([[*range(4), *range(5)]] * 2)


@pytest.mark.parametrize(("family", "cache"), [("llama", True), ("gpt2", True), ("opt", False), ("gpt_oss", False)])
@torch.no_grad()
def test_packed_documents_see_each_other_in_the_original_and_are_refused_here(family: str, cache: bool) -> None:
    """transformers looks for packed documents only where there is no cache, and some families do not hand it their positions."""
    stock, tokens = tiny_model(family, torch.float32), sample_tokens(2, 9)
    alone = stock(tokens[:, 4:], use_cache=False).logits
    packed = stock(tokens, position_ids=PLACES, use_cache=cache).logits[:, 4:]
    assert (packed - alone).abs().max() > 1e-2
    apply_alibi(stock, 64)
    with pytest.raises(ValueError, match="begin again"):
        stock(tokens, position_ids=PLACES, use_cache=cache)


@torch.no_grad()
def test_without_a_cache_they_do_not_in_either() -> None:
    stock, tokens = tiny_model("llama", torch.float64), sample_tokens(2, 9)
    converted = tiny_model("llama", torch.float64)
    apply_alibi(converted, 64)
    for model in (stock, converted):
        alone = model(tokens[:, 4:], use_cache=False).logits
        packed = model(tokens, position_ids=PLACES, use_cache=False).logits[:, 4:]
        assert (packed - alone).abs().max() < 1e-10
