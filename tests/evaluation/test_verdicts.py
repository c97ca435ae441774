"""What a comparison says in words."""

import math
from pathlib import Path

import numpy as np

from alibi_cli.evaluation.contrasts import in_words
from alibi_cli.evaluation.results import Contrast, RowKey
from alibi_cli.text.documents import Text
from tests.evaluation.helpers import LENGTHS, asked, evaluate
from tests.models import save_tiny


def contrast(arm: str, delta: float, spread: float = 0.01, length: int = 48, baseline: str = "o") -> Contrast:
    ci = None if math.isnan(spread) else (delta - spread, delta + spread)
    return Contrast(
        model="m", baseline=baseline, length=length, baseline_length=length if baseline == "o" else 12,
        baseline_arm=arm, delta_nll=delta, perplexity_ratio=1.0, ci95=ci, verdict="",
    )  # fmt: skip


def test_verdicts() -> None:
    longer = contrast("full", -1.8, baseline="m")
    ruined, collapsed = contrast("full", 6.9, length=48), contrast("full", -0.5)
    assert in_words(longer, [longer]) == "uses longer context"
    assert in_words(longer, [longer, ruined]) == "improves with length, and is 6.9 nats above its baseline"
    best = contrast("truncated", 2.3)
    assert in_words(longer, [longer, collapsed, best]).endswith("is 2.3 nats above its baseline (truncated)")
    assert in_words(longer, [longer, contrast("full", 2.3, length=24)]).endswith("above its baseline at 24")
    # By the interval, not the mean: one that reaches 0.1 nats or less is not far.
    assert in_words(longer, [longer, contrast("full", 0.5, spread=0.45)]) == "uses longer context"
    assert in_words(longer, [longer, contrast("full", 0.5, spread=0.35)]).startswith("improves with length")
    assert in_words(longer, [longer, contrast("full", 6.9, spread=math.nan)]) == "uses longer context"
    assert in_words(contrast("full", 1.8, baseline="m"), [ruined]) == "degrades"
    for delta, word in ((-0.1, "better than yarn"), (0.1, "worse than yarn"), (0.001, "no better than yarn")):
        assert in_words(contrast("yarn", delta), []) == word
    assert in_words(contrast("yarn", -0.1, spread=math.nan), []) == "one document: no interval"
    arms = [contrast("window+sinks", -0.005), contrast("yarn", -0.3), contrast("truncated", -0.2)]
    assert in_words(collapsed, arms[1:]) == "improves"
    assert in_words(collapsed, arms) == "improves, but is no better than window+sinks"
    assert in_words(collapsed, [*arms, best]) == "improves, but is worse than truncated"
    assert in_words(ruined, arms) == "degrades"


def test_a_ruined_model_is_not_praised(text: Text, tmp_path: Path) -> None:
    """End to end, with intervals from real rows: a baseline against a model whose weights are too large, that gains by length."""
    from alibi_cli.evaluation.contrasts import contrasts

    good, bad = str(save_tiny("llama", tmp_path / "good")), str(save_tiny("llama", tmp_path / "bad"))
    results, record = evaluate(asked([good, bad], LENGTHS, text, baseline=good))
    for length in LENGTHS:
        for model, nll in ((good, 2.0), (bad, 9.0 - length / 48)):
            key = RowKey(model, "full", length)
            noise = np.random.default_rng(length).normal(0, 0.1, len(record[key].nll))
            record[key].nll[:] = nll + noise
    results.contrasts = []
    words = {(c.length, c.baseline): c.verdict for c in contrasts(results, good)}
    assert words[24, bad] == "improves with length, and is 6.5 nats above its baseline"
    assert words[24, good] == "degrades"
