"""Results without models: losses drawn around given perplexities."""

import math

import numpy as np

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.contrasts import contrasts
from alibi_cli.evaluation.results import ModelFacts, ProtocolFacts, Results, TextFacts, ok_row
from alibi_cli.evaluation.results_file import digest
from alibi_cli.evaluation.statistics import Scored

DOCUMENTS, TARGETS, TRAINED = 12, 32, 512
LENGTHS = (256, 512, 1024, 2048)


def results_of(
    perplexities: dict[str, dict[str, tuple[float, ...]]],
    baseline: str | None = None,
    text: str = "wikitext",
    protocol: str = "fixed-target",
    cut: str = "cut",
    offset: int = 0,
    documents: int = DOCUMENTS,
) -> Results:
    """perplexities: {model: {arm: at the last of LENGTHS}}, with nearly the same noise everywhere, so that pairs are close. cut: by which
    tokenizer. offset: where the scored tokens begin, which makes other ones of them."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.5, documents * TARGETS) + np.repeat(rng.normal(0, 0.2, documents), TARGETS)
    results = Results(
        command="alibi eval …",
        versions={"alibi-cli": "0"},
        protocol=ProtocolFacts(
            name=protocol,
            targets=TARGETS if protocol == "fixed-target" else None,
            stride=TARGETS if protocol == "sliding" else None,
            longest=max(LENGTHS),
            masked=False,
            device="cpu",
            dtype="auto",
            seed=0,
        ),
        text=TextFacts(name=text, sha256=(text.encode().hex() + "0" * 64)[:64], documents=documents, bytes=10_000),
        models=[_facts(name, cut, baseline) for name in perplexities],
    )
    document = np.repeat(np.arange(documents), TARGETS).astype(np.int32)
    position = np.tile(np.arange(TARGETS), documents).astype(np.int32) + offset
    for model, arms in perplexities.items():
        for arm, values in arms.items():
            for length, value in zip(LENGTHS[-len(values) :], values, strict=True):
                jitter = rng.normal(0, 0.02, documents)[document]
                nll = (math.log(value) + noise + jitter).astype(np.float32)
                context = (position + length - TARGETS).astype(np.int32)
                scored = Scored(nll, document, position, context, 3 * len(nll))
                row = ok_row(model, arm, length, TRAINED if arm == "truncated" else length, scored, 1.0, 100, 1)
                if arm.startswith("window"):
                    row.arm_settings = {"window": TRAINED, "sinks": 0}
                row.sha256 = digest(row, scored)
                results.rows.append(row)
                results.record[row.key] = scored
    results.contrasts = contrasts(results, baseline)
    return results


def _facts(name: str, cut: str, baseline: str | None) -> ModelFacts:
    return ModelFacts(
        name=name,
        model_type="llama",
        commit=None,
        digest=f"digest of {name}",
        tokenizer_sha256=cut,
        dtype="float32",
        attention="sdpa",
        converted=name != baseline,
        trained_length=TRAINED if name == baseline else None,
        special_tokens=[[], []],
        tokens_sha256=cut,
    )


def flat(value: float) -> dict[str, tuple[float, ...]]:
    return {FULL: (value,) * len(LENGTHS)}


BASE = {FULL: (11.0, 10.0, 400.0, 30_000.0), "truncated": (10.0, 10.0), "window": (10.4, 10.5)}
