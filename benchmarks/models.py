"""Whole converted models against their originals with scaled dot product attention: a training step, a prefill, and decoding with a cache.

The model is a small Llama of SmolLM's proportions with random weights, in float32. Policy replace has Press's slopes; policy add has
offsets of 512 tokens, steep slopes, other ones in every layer as calibration finds them, and, with sinks, a distance of 512 from which
they are seen.

Decoding reads one token at a time after a prefill; its cache is cut back to the same length after every step. A round visits all cases,
and in each the models take turns, so that a slow minute decides nothing; of every case the least of all rounds counts. On a CPU that is the
CPU time of all threads.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alibi_cli import apply_alibi
from benchmarks.attention import DEVICE, _least
from benchmarks.claims import Claim

LAYERS, HEADS, OFFSET, STEEP, SINKS, VOCABULARY = 4, 9, 512, 0.05, 4, 4096
TARGETS = {"training step": 1.05, "prefill": 1.0, "decoding": 1.0}  # of the original's time
LENGTHS = (512, 1024, 2048, 4096, 8192)
STEPS = 8  # of decoding, at a time
DECODINGS = 20  # in a round
ROUNDS = 3
ADDED: dict[str, Any] = dict(
    policy="add",
    slopes=[[STEEP * (1 + layer / 10)] * HEADS for layer in range(LAYERS)],
    offsets=[float(OFFSET)] * HEADS,
)
CONVERSIONS: dict[str, dict[str, Any]] = {
    "replace": {},
    f"replace, {SINKS} sinks": dict(sinks=SINKS),
    "add": ADDED,
    f"add, {SINKS} sinks": ADDED | dict(sinks=SINKS, sink_distance=OFFSET),
}


def measure(
    short: bool, lengths: tuple[int, ...] = LENGTHS, rounds: int | None = None, **proportions: int
) -> Iterator[Claim]:
    """proportions: of the model, where they are to be others."""
    lengths = tuple(length for length in lengths if not short or length in (512, 2048))
    models, cases = models_of(max(lengths), **proportions), {}
    for length in lengths:
        tokens = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length)).to(DEVICE)
        for what, arm in (("training step", _train), ("prefill", _prefill), ("decoding", _decoding)):
            cases[what, length] = {name: arm(model, tokens) for name, model in models.items()}
    best: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(rounds or (2 if short else ROUNDS)):
        for (what, length), arms in cases.items():
            found = _least(arms, repeats=_repeats(what, length))
            before = best.get((what, length), found)
            best[what, length] = {name: min(found[name], before[name]) for name in found}
    for (what, length), seconds in best.items():
        for name in CONVERSIONS:
            yield Claim(
                claim=f"{what}, {length} tokens, policy {name}",
                against="the original, sdpa",
                unit="s",
                ours=seconds[name] / (STEPS if what == "decoding" else 1),
                baseline=seconds["original"] / (STEPS if what == "decoding" else 1),
                target=TARGETS[what],
            )


def models_of(longest: int, **proportions: int) -> dict[str, LlamaForCausalLM]:
    """The original and its conversions."""
    shape: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=3,
        max_position_embeddings=longest + STEPS,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    original: Any = LlamaForCausalLM(LlamaConfig(**(shape | proportions)))
    original = original.to(DEVICE).eval()
    models = {"original": original}
    for name, settings in CONVERSIONS.items():
        models[name] = copy.deepcopy(original)
        apply_alibi(models[name], longest + STEPS, **settings)
    return models


def _repeats(what: str, length: int) -> int:
    """In a round: what takes little is timed more often, because a few samples of it would measure the machine."""
    if what == "decoding":
        return DECODINGS
    return max(1, min(16, (8192 if what == "prefill" else 2048) // length))


def _train(model: LlamaForCausalLM, tokens: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        model.zero_grad()

    return step


def _prefill(model: LlamaForCausalLM, tokens: torch.Tensor) -> Callable[[], Any]:
    return torch.no_grad()(partial(model, input_ids=tokens, use_cache=True, logits_to_keep=1))


def _decoding(model: LlamaForCausalLM, tokens: torch.Tensor) -> Callable[[], None]:
    caches: list[Any] = []

    @torch.no_grad()
    def steps() -> None:
        if not caches:  # made by the first call, which is not the least
            caches.append(model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values)
        for nth in range(STEPS):
            model(input_ids=tokens[:, nth : nth + 1], past_key_values=caches[0], use_cache=True)
        caches[0].crop(-STEPS)

    return steps
