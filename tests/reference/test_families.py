"""Every registered family against the textbook, in float64, under every policy that knows it. A family is tested because a policy is
registered for it; attention sinks and offsets are tested with families of each kind."""

import copy

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.models.families import family_policies
from tests.models import FAMILIES, MODELS, OLD_MAX, OWN_BIAS, SPECIFIC, is_encoder, sample_tokens, skeleton, tiny_model
from tests.reference.textbook import textbook_logits, textbook_slopes

NEW_MAX = 4 * OLD_MAX
EXACT = 1e-10
VISIBLE = 1e-3  # a negative control must differ by more


SINKS, OFFSETS = 3, [0.0, 2.5, 4.0, 1.0, 6.0, 0.5]
ADDED = [*family_policies("add"), "llama-yarn", "qwen2-window"]
OF_POLICIES = {name: (name, {}) for name in MODELS} | {f"{name}, add": (name, {"policy": "add"}) for name in ADDED}
# Of each kind of attention and mask: full, grouped, windows, soft cap, learned sinks, encoders, two stacks, and the families' own code.
KINDS = [
    "gpt2",
    "llama",
    "mistral",
    "gemma2",
    "gpt_oss",
    "bert",
    "bart",
    "t5",
    "gptj",
    "gpt_neo",
    "falcon",
    "xglm",
    "openai",
    "ctrl",
]
ADDED_KINDS = ["llama", "llama-yarn", "gemma3", "gpt_oss", "modernbert", "esm", "t5", "gptj", "falcon"]
OF_SINKS = {f"{name}, sinks": (name, {"sinks": SINKS}) for name in KINDS}
OF_SINKS |= {f"{name}, add, sinks": (name, {"policy": "add", "sinks": SINKS}) for name in ADDED_KINDS}
OF_OFFSETS = {f"{name}, add, offsets": (name, {"policy": "add", "offsets": OFFSETS}) for name in ADDED_KINDS}
OF_OFFSETS |= {
    f"{name}, add, both": (name, {"policy": "add", "sinks": SINKS, "offsets": OFFSETS})
    for name in ("llama", "t5", "falcon")
}
CASES = OF_POLICIES | OF_SINKS | OF_OFFSETS


def pair(case: str):
    """(stock model, converted copy)"""
    name, settings = CASES[case]
    stock = tiny_model(name)
    converted = copy.deepcopy(stock)
    apply_alibi(converted, NEW_MAX, **settings)
    return stock, converted


def of_textbook(case: str) -> dict:
    """The textbook's arguments for what a case sets."""
    _, settings = CASES[case]
    kept = {key: value for key, value in settings.items() if key != "policy"}
    return {"keep_positions": settings.get("policy") == "add", **kept}


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


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_textbook_and_controls_do_not(case: str) -> None:
    stock, converted = pair(case)
    tokens, same = sample_tokens(2, 20), of_textbook(case)
    ours = logits(converted, tokens)
    assert difference(ours, textbook(stock, tokens, **same)) <= EXACT
    press = textbook_slopes(stock.config.num_attention_heads)
    controls = {"steeper": {"slopes": [1.1 * m for m in press]}, "no bias": {"slopes": [0.0] * len(press)}}
    if stock.config.model_type != "t5" or "sinks" in same or same["keep_positions"]:
        # a T5 has no positions but the bias that the textbook's takes the place of
        controls["positions"] = {"keep_positions": not same["keep_positions"]}
    if "sinks" in same:
        controls |= {"no sinks": {"sinks": 0}, "one more": {"sinks": SINKS + 1}}
    if "offsets" in same:
        controls |= {"no offsets": {"offsets": None}}
    for what, change in controls.items():
        assert difference(ours, textbook(stock, tokens, **{**same, **change})) > VISIBLE, what
    if CASES[case][0] != "xglm":  # whose stock code fails in float64
        assert difference(ours, logits(stock, tokens)) > VISIBLE


@pytest.mark.parametrize("case", OF_POLICIES)
def test_longer_than_the_old_maximum(case: str) -> None:
    stock, converted = pair(case)
    tokens = sample_tokens(1, 3 * OLD_MAX)
    roomy = tiny_model(CASES[case][0], max_position_embeddings=4 * OLD_MAX)
    weights = {
        key: value
        for key, value in stock.state_dict().items()
        if key in roomy.state_dict() and value.shape == roomy.state_dict()[key].shape
    }
    roomy.load_state_dict(weights, strict=False)
    assert difference(logits(converted, tokens), textbook(roomy, tokens, **of_textbook(case))) <= EXACT


@pytest.mark.parametrize("case", CASES)
def test_padding_changes_nothing(case: str) -> None:
    stock, converted = pair(case)
    tokens, pads = sample_tokens(1, 15), 6
    for left in (True, False):
        parts = [torch.full((1, pads), 1), tokens] if left else [tokens, torch.full((1, pads), 1)]
        mask = [torch.zeros(1, pads, dtype=torch.long), torch.ones_like(tokens)]
        mask = torch.cat(mask if left else mask[::-1], 1)
        second = second_stack(converted, tokens)
        padded = logits(converted, torch.cat(parts, 1), attention_mask=mask, **second)
        reference = textbook(stock, torch.cat(parts, 1), padding=mask, **second, **of_textbook(case))
        if not second:  # else the padded stack is not the one whose outputs these are
            padded, reference = (x[:, pads:] if left else x[:, :-pads] for x in (padded, reference))
        # A rotation by later positions is another one in its last bits: angles are float32.
        turned = of_textbook(case)["keep_positions"] and left
        assert difference(padded, logits(converted, tokens)) <= (2e-4 if turned else EXACT)
        assert difference(padded, reference) <= EXACT


WITHOUT_CACHE = ("openai",)
_encoders = {name for name in MODELS if is_encoder(skeleton(name))}
DECODERS = [case for case, (name, _) in CASES.items() if name not in _encoders and name not in WITHOUT_CACHE]


@pytest.mark.parametrize("case", DECODERS)
def test_cached_equals_uncached(case: str) -> None:
    _, converted = pair(case)
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


@pytest.mark.parametrize("case", DECODERS)
def test_generation_with_and_without_cache_and_padding(case: str) -> None:
    _, converted = pair(case)
    prompt = sample_tokens(2, OLD_MAX - 4)
    settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1)
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


@pytest.mark.parametrize("case", [case for case, (name, _) in CASES.items() if name in FAMILIES])
def test_save_and_reload_is_bit_identical(case: str, tmp_path) -> None:
    (_, converted), (name, settings) = pair(case), CASES[case]
    converted.save_pretrained(tmp_path)
    options = {"dtype": torch.float64, "output_loading_info": True}
    if "experts_implementation" in SPECIFIC.get(name, {}):  # the default for experts knows no float64
        options["experts_implementation"] = "eager"
    reloaded, loading = type(converted).from_pretrained(tmp_path, **options)
    for key in ("policy", "sinks", "offsets"):
        assert getattr(reloaded.config, f"alibi_{key}") == settings.get(key)
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


@pytest.mark.parametrize("case", [case for case, (name, _) in OF_POLICIES.items() if name in FAMILIES])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(case: str, tied: bool) -> None:
    name, settings = CASES[case]
    stock = tiny_model(name, tie_word_embeddings=tied)
    were_tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    if name != "t5":  # which ties its embeddings in any case
        assert were_tied == tied
    apply_alibi(stock, NEW_MAX, **settings)
    assert (stock.get_output_embeddings().weight is stock.get_input_embeddings().weight) == were_tied


@pytest.mark.parametrize("case", [case for case, (name, _) in OF_POLICIES.items() if name in FAMILIES])
def test_gradients_reach_every_parameter(case: str) -> None:
    _, converted = pair(case)
    tokens = sample_tokens(1, 12)
    converted.train()
    output = converted(input_ids=tokens, **second_stack(converted, tokens)).logits
    torch.nn.functional.cross_entropy(output[0, :-1], tokens[0, 1:]).backward()
    unread = ("contact_head",)  # of ESM: another head's
    assert not [n for n, p in converted.named_parameters() if p.grad is None and not any(part in n for part in unread)]


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *OWN_BIAS) if name not in ADDED])
def test_a_family_whose_positions_end_cannot_keep_them(name: str) -> None:
    stock = tiny_model(name, torch.float32)
    before = type(stock)
    says = (
        "has ALiBi already" if name in OWN_BIAS else "end at 2[24] tokens. Use policy replace"
    )  # RoBERTa's begin at 2
    with pytest.raises(ValueError, match=says):
        apply_alibi(stock, NEW_MAX, policy="add")
    assert type(stock) is before
