"""Every registered family against the textbook, in float64. A family is tested because a policy is registered for it."""

import copy

import pytest
import torch

from alibi_cli import apply_alibi
from tests.models import FAMILIES, MODELS, OLD_MAX, SPECIFIC, is_encoder, sample_tokens, tiny_model
from tests.reference.textbook import textbook_logits, textbook_slopes

NEW_MAX = 4 * OLD_MAX
EXACT = 1e-10
VISIBLE = 1e-3  # a negative control must differ by more


def pair(name: str):
    """(stock model, converted copy)"""
    stock = tiny_model(name)
    converted = copy.deepcopy(stock)
    apply_alibi(converted, NEW_MAX)
    return stock, converted


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def second_stack(model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What an encoder-decoder's decoder reads; nothing for the others."""
    return {"decoder_input_ids": tokens.flip(1)} if model.config.is_encoder_decoder else {}


@torch.no_grad()
def logits(model, tokens: torch.Tensor, **inputs) -> torch.Tensor:
    return model(input_ids=tokens, **{**second_stack(model, tokens), **inputs}).logits


def textbook(stock, tokens: torch.Tensor, *args, **inputs) -> torch.Tensor:
    return textbook_logits(stock, tokens, *args, **{**second_stack(stock, tokens), **inputs})


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_textbook_and_controls_do_not(name: str) -> None:
    stock, converted = pair(name)
    tokens = sample_tokens(2, 20)
    ours, expected = logits(converted, tokens), textbook(stock, tokens)
    assert difference(ours, expected) <= EXACT
    assert (
        difference(ours, textbook(stock, tokens, [1.1 * m for m in textbook_slopes(stock.config.num_attention_heads)]))
        > VISIBLE
    )
    if name != "t5":  # has no positions but the bias that the textbook's takes the place of
        assert difference(ours, textbook(stock, tokens, keep_positions=True)) > VISIBLE
    if name != "xglm":  # whose stock code fails in float64
        assert difference(ours, logits(stock, tokens)) > VISIBLE


@pytest.mark.parametrize("name", MODELS)
def test_longer_than_the_old_maximum(name: str) -> None:
    stock, converted = pair(name)
    tokens = sample_tokens(1, 3 * OLD_MAX)
    roomy = tiny_model(name, max_position_embeddings=4 * OLD_MAX)
    weights = {
        key: value
        for key, value in stock.state_dict().items()
        if key in roomy.state_dict() and value.shape == roomy.state_dict()[key].shape
    }
    roomy.load_state_dict(weights, strict=False)
    assert difference(logits(converted, tokens), textbook(roomy, tokens)) <= EXACT


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str) -> None:
    stock, converted = pair(name)
    tokens, pads = sample_tokens(1, 15), 6
    for left in (True, False):
        parts = [torch.full((1, pads), 1), tokens] if left else [tokens, torch.full((1, pads), 1)]
        mask = [torch.zeros(1, pads, dtype=torch.long), torch.ones_like(tokens)]
        mask = torch.cat(mask if left else mask[::-1], 1)
        second = second_stack(converted, tokens)
        padded = logits(converted, torch.cat(parts, 1), attention_mask=mask, **second)
        reference = textbook(stock, torch.cat(parts, 1), padding=mask, **second)
        if not second:  # else the padded stack is not the one whose outputs these are
            padded, reference = (x[:, pads:] if left else x[:, :-pads] for x in (padded, reference))
        assert difference(padded, logits(converted, tokens)) <= EXACT
        assert difference(padded, reference) <= EXACT


WITHOUT_CACHE = ("openai",)
DECODERS = [name for name in MODELS if not is_encoder(tiny_model(name)) and name not in WITHOUT_CACHE]


@pytest.mark.parametrize("name", DECODERS)
def test_cached_equals_uncached(name: str) -> None:
    _, converted = pair(name)
    tokens = sample_tokens(2, 2 * OLD_MAX)
    whole = logits(converted, tokens, use_cache=False)
    two_stacks = converted.config.is_encoder_decoder
    read = second_stack(converted, tokens).get("decoder_input_ids", tokens)
    cache, pieces, start = None, [], 0
    for size in (1, 7, 13, 1, 1, 2 * OLD_MAX - 23):
        piece = read[:, start : start + size]
        inputs = {"input_ids": tokens, "decoder_input_ids": piece} if two_stacks else {"input_ids": piece}
        with torch.no_grad():
            output = converted(**inputs, past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, start + size
        pieces.append(output.logits)
    assert difference(torch.cat(pieces, 1), whole) <= EXACT


@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_and_without_cache_and_padding(name: str) -> None:
    _, converted = pair(name)
    prompt = sample_tokens(2, 11)
    settings = dict(max_new_tokens=2 * OLD_MAX, do_sample=False, eos_token_id=None, pad_token_id=1)
    mask = torch.ones_like(prompt)
    expected = converted.generate(prompt, attention_mask=mask, use_cache=False, **settings)
    assert torch.equal(converted.generate(prompt, attention_mask=mask, use_cache=True, **settings), expected)
    assert torch.equal(
        converted.generate(prompt, attention_mask=mask, cache_implementation="static", **settings), expected
    )
    pads = torch.full((2, 5), 1)
    padding = torch.cat([torch.zeros_like(pads), mask], 1)
    padded = converted.generate(torch.cat([pads, prompt], 1), attention_mask=padding, use_cache=True, **settings)
    assert torch.equal(padded if converted.config.is_encoder_decoder else padded[:, 5:], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_save_and_reload_is_bit_identical(name: str, tmp_path) -> None:
    _, converted = pair(name)
    converted.save_pretrained(tmp_path)
    options = {"dtype": torch.float64, "output_loading_info": True}
    if "experts_implementation" in SPECIFIC.get(name, {}):  # the default for experts knows no float64
        options["experts_implementation"] = "eager"
    reloaded, loading = type(converted).from_pretrained(tmp_path, **options)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    for (key, before), (other, after) in zip(
        converted.state_dict().items(), reloaded.state_dict().items(), strict=True
    ):
        assert key == other and torch.equal(before, after), key
    tokens = sample_tokens(2, 3 * OLD_MAX)
    if name != "gemma":  # its embedding scale is rounded to float32 on loading, converted or not
        before, after = logits(converted, tokens), logits(reloaded.eval(), tokens)
        if converted.config.is_encoder_decoder:  # equal weights at other addresses: the last bit of a matrix product
            assert difference(before, after) <= 1e-13
        else:
            assert torch.equal(before, after)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(name: str, tied: bool) -> None:
    stock = tiny_model(name, tie_word_embeddings=tied)
    were_tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    if name != "t5":  # which ties its embeddings in any case
        assert were_tied == tied
    apply_alibi(stock, NEW_MAX)
    assert (stock.get_output_embeddings().weight is stock.get_input_embeddings().weight) == were_tied


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_parameter(name: str) -> None:
    _, converted = pair(name)
    tokens = sample_tokens(1, 12)
    converted.train()
    output = converted(input_ids=tokens, **second_stack(converted, tokens)).logits
    torch.nn.functional.cross_entropy(output[0, :-1], tokens[0, 1:]).backward()
    unread = ("contact_head",)  # of ESM: another head's
    assert not [n for n, p in converted.named_parameters() if p.grad is None and not any(part in n for part in unread)]
