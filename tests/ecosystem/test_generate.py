"""transformers' generate, in its modes, against passes without a cache."""

from typing import Any

import torch

from tests.ecosystem.checkpoints import COUNT, PROMPT, Checkpoint, Way, apart, ids_of, log_probabilities, text_tokens

PLAIN: dict[str, Any] = {"max_new_tokens": COUNT, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def by_hand(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Greedy tokens, a whole pass for each."""
    for _ in range(COUNT):
        tokens = torch.cat([tokens, log_probabilities(model, tokens, use_cache=False)[:, -1:].argmax(-1)], dim=1)
    return tokens


def test_logits_are_the_textbook_s(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    tokens = text_tokens()
    expected = checkpoint.textbook(tokens)
    difference = apart(log_probabilities(way.model(checkpoint.folder), tokens), expected)
    control = apart(log_probabilities(way.model(checkpoint.steeper), tokens), expected)
    assert difference < 1e-4 < control
    record(
        "transformers",
        "log-probabilities of a converted model, by the definition from its original",
        difference,
        control,
    )


def test_every_way_of_greedy_decoding(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    model, tokens = way.model(checkpoint.folder), torch.tensor([ids_of(PROMPT)])
    expected = by_hand(model, tokens)
    draft = way.model(checkpoint.steeper)
    modes: dict[str, dict[str, Any]] = {
        "cache": {}, "no cache": {"use_cache": False}, "static cache": {"cache_implementation": "static"},
        "assisted": {"assistant_model": draft}, "prompt lookup": {"prompt_lookup_num_tokens": 4}, "chunks": {"prefill_chunk_size": 8},
    }  # fmt: skip
    found = {name: model.generate(tokens, **PLAIN, **options) for name, options in modes.items()}
    others = {name: int((ids != expected).sum()) for name, ids in found.items()}
    control = int((by_hand(draft, tokens) != expected).sum())
    assert not any(others.values()) and control > 0, others
    record(
        "transformers",
        f"generate, greedy ({', '.join(modes)}): tokens of {COUNT} that differ",
        sum(others.values()),
        control,
    )


def test_padding_on_the_left(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    model, tokens, mask = way.model(checkpoint.folder), text_tokens(20, batch=2), torch.ones(2, 20, dtype=torch.long)
    mask[1, :6] = 0
    expected = checkpoint.textbook(tokens[1:, 6:])
    difference = apart(log_probabilities(model, tokens, attention_mask=mask)[1:, 6:], expected)
    control = apart(log_probabilities(model, tokens)[1:, 6:], expected)
    assert difference < 1e-4 < control
    record(
        "transformers",
        "a batch padded on the left: log-probabilities, by the definition without padding",
        difference,
        control,
    )
    found = model.generate(tokens, attention_mask=mask, **PLAIN)
    assert torch.equal(found[1, 20:], by_hand(model, tokens[1:, 6:])[0, 14:])


def test_beams(checkpoint: Checkpoint, way: Way, record: Any) -> None:
    model, tokens = way.model(checkpoint.folder), text_tokens(20)
    scores = {"output_scores": True, "return_dict_in_generate": True, "length_penalty": 1.0}
    found = model.generate(tokens, **PLAIN, num_beams=4, num_return_sequences=4, **scores)
    chosen = found.sequences[:, 20:, None]

    def mean(each: Any) -> torch.Tensor:
        return log_probabilities(each, found.sequences)[:, 19:-1].gather(-1, chosen)[..., 0].mean(1)

    difference, control = (apart(found.sequences_scores, mean(each)) for each in (model, way.model(checkpoint.steeper)))
    assert difference < 1e-4 < control
    record("transformers", "generate, 4 beams: their scores, from one pass over each sequence", difference, control)
