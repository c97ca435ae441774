"""Means, intervals and verdicts, on synthetic records whose truth is known."""

import math

import numpy as np
import pytest

from alibi_cli.evaluation import statistics as s
from alibi_cli.evaluation.statistics import Scored


def record(nll: np.ndarray, document: np.ndarray, n_bytes: int | None = None) -> Scored:
    n = len(nll)
    return Scored(
        nll.astype(np.float32),
        document.astype(np.int32),
        np.arange(n, dtype=np.int32),
        np.arange(n, dtype=np.int32),
        n_bytes,
    )


def test_perplexity_is_exp_of_the_total_over_the_tokens_not_a_mean_of_means() -> None:
    scored = record(np.array([1.0, 1.0, 4.0]), np.array([0, 0, 1]))
    assert scored.mean == 2.0
    assert math.exp(scored.mean) != pytest.approx((math.exp(1) + math.exp(4)) / 2)


def test_bits_per_byte() -> None:
    scored = record(np.array([math.log(2)] * 6), np.zeros(6), n_bytes=3)
    assert scored.bits_per_byte == pytest.approx(2.0, rel=1e-6)
    assert record(np.ones(2), np.zeros(2), None).bits_per_byte is None


def test_sums_are_float64() -> None:
    scored = record(np.full(1 << 22, 0.1), np.zeros(1 << 22))
    assert scored.mean == pytest.approx(float(np.float32(0.1)), abs=1e-12)


def test_order_of_documents_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    nll, document = rng.gamma(2, size=5000), np.repeat(np.arange(50), 100)
    order = rng.permutation(5000)
    assert record(nll[order], document[order]).mean == pytest.approx(record(nll, document).mean, abs=1e-12)


def synthetic(rng: np.random.Generator, documents: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Token losses of documents that differ: mean 2 over documents of equal size."""
    means = rng.normal(2.0, spread, documents)
    return np.concatenate([rng.normal(mean, 1.0, 40) for mean in means]), np.repeat(np.arange(documents), 40)


def coverage(by_token: bool, runs: int = 300, documents: int = 40) -> float:
    hits = 0
    for run in range(runs):
        nll, document = synthetic(np.random.default_rng(run), documents, 0.5)
        groups = np.arange(len(nll)) if by_token else document
        low, high = s.interval(*s.per_document(nll, groups), resamples=400, seed=run)
        hits += low <= 2.0 <= high
    return hits / runs


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    assert 0.90 <= coverage(by_token=False) <= 0.985


def test_resampling_tokens_instead_would_not() -> None:
    assert coverage(by_token=True, runs=100) < 0.7


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    nll, document = synthetic(rng, 40, 0.5)
    reference, better = record(nll, document), record(nll - 0.05 + rng.normal(0, 0.05, len(nll)), document)
    delta, ci = s.difference(better, reference)
    assert delta == pytest.approx(-0.05, abs=0.01) and ci is not None and ci[1] < 0
    a, b = s.mean_interval(better), s.mean_interval(reference)
    assert a is not None and b is not None and a[1] > b[0]  # unpaired, the two intervals overlap
    assert ci[1] - ci[0] < (a[1] - a[0]) / 4


def test_differences_of_other_tokens_are_refused() -> None:
    a = record(np.ones(3), np.zeros(3))
    b = Scored(a.nll, a.document, a.position + 1, a.context, None)
    with pytest.raises(ValueError, match="same tokens"):
        s.difference(a, b)


@pytest.mark.parametrize(
    ("ci", "word"),
    [
        ((-0.2, -0.1), "uses longer context"),
        ((-0.1, 0.1), "no detectable change"),
        ((0.1, 0.2), "degrades"),
        ((-4.6e-7, -3.5e-7), "no detectable change"),  # SmolLM2 beside itself in another kernel
        ((2.3e-11, 1.2e-7), "no detectable change"),
        ((-2e-4, -1e-4), "uses longer context"),
        ((1e-4, 2e-4), "degrades"),
        (None, "one document: no interval"),
    ],
)
def test_verdicts_are_read_from_the_interval(ci, word: str) -> None:
    assert s.verdict(ci, s.LONGER_CONTEXT) == word


def test_one_document_has_no_interval() -> None:
    assert s.mean_interval(record(np.ones(10), np.zeros(10))) is None


def test_bins_by_context_keep_every_token() -> None:
    scored = record(np.linspace(3, 1, 1000), np.zeros(1000))
    context, nll = s.by_context(scored)
    assert len(context) == len(nll) == 24 and np.all(np.diff(context) > 0) and np.all(np.diff(nll) < 0)
    assert nll.mean() == pytest.approx(2.0, abs=0.01)
