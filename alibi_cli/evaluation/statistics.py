"""Means, intervals and verdicts from per-token negative log-likelihoods. Everything is summed in float64.

The unit of resampling is the document: tokens of one document are alike, so resampling tokens would claim too much.
A mean is the total NLL over the total number of tokens; perplexity is exp of that mean. Differences are paired: both
sides are read at the same tokens of the same resampled documents, which is several times tighter than comparing two
intervals.
"""

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 0
FEW_DOCUMENTS = 20
# Nats per token, half of the last decimal in tables. Two kernels in float32 differ by some 1e-7, often on every document in the same
# direction: an interval that lies beside zero and means nothing.
RESOLUTION = 5e-5

LONGER_CONTEXT, IMPROVES, NO_CHANGE, DEGRADES = "uses longer context", "improves", "no detectable change", "degrades"


@dataclass(frozen=True)
class Scored:
    """One row's record. nll: (n,) float32 nats. document, position, context: (n,) int32, the document of each scored token, its position
    there, and how many tokens the model saw before it. n_bytes: bytes that the scored tokens stand for, None if unknown. byte_begin,
    byte_end: (n,) int64, where in the document's text, as UTF-8, each token begins and ends, None if unknown."""

    nll: np.ndarray
    document: np.ndarray
    position: np.ndarray
    context: np.ndarray
    n_bytes: int | None
    byte_begin: np.ndarray | None = None
    byte_end: np.ndarray | None = None

    def same_tokens(self, other: "Scored") -> bool:
        return np.array_equal(self.document, other.document) and np.array_equal(self.position, other.position)

    @property
    def mean(self) -> float:
        return float(self.nll.sum(dtype=np.float64)) / len(self.nll)

    @property
    def bits_per_byte(self) -> float | None:
        return None if not self.n_bytes else float(self.nll.sum(dtype=np.float64)) / math.log(2) / self.n_bytes


def per_document(values: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of the values of each document that has any; both (D,) float64."""
    _, index = np.unique(document, return_inverse=True)
    return np.bincount(index, weights=values.astype(np.float64)), np.bincount(index).astype(np.float64)


def interval(
    sums: np.ndarray, counts: np.ndarray, level: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of sum(sums) / sum(counts) over documents; None for fewer than two documents."""
    documents = len(sums)
    if documents < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, 2_000_000 // documents)  # bounded memory for many documents
    for start in range(0, resamples, chunk):
        drawn = rng.integers(documents, size=(min(chunk, resamples - start), documents))  # (n, D)
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(scored: Scored) -> tuple[float, float] | None:
    return interval(*per_document(scored.nll, scored.document))


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); unlike the normal approximation it has a width at 0 and at n of n.

    Raises:
        ValueError: n is not positive, or `correct` is not between 0 and n.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is not a proportion.")
    share, weight = correct / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(scored: Scored, reference: Scored) -> tuple[float, tuple[float, float] | None]:
    """(mean, 95 % interval) of scored - reference, nats per token, paired token by token.

    Raises:
        ValueError: the two did not score the same tokens.
    """
    if not scored.same_tokens(reference):
        raise ValueError("Only the same tokens can be compared.")
    delta = scored.nll.astype(np.float64) - reference.nll.astype(np.float64)
    return float(delta.mean()), interval(*per_document(delta, scored.document))


def verdict(ci: tuple[float, float] | None, better: str) -> str:
    """Read from the interval of a difference in NLL, never from its mean; `better` is the word for an interval below 0. None below the
    resolution of a table: what prints as 0.0000 is no difference."""
    if ci is None:
        return "one document: no interval"
    return better if ci[1] < -RESOLUTION else DEGRADES if ci[0] > RESOLUTION else NO_CHANGE


def by_context(scored: Scored, bins: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(mean context, mean NLL) in bins of equal token count, for the plot of NLL by position."""
    order = np.argsort(scored.context, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return np.array([scored.context[part].mean() for part in parts]), np.array(
        [scored.nll[part].mean(dtype=np.float64) for part in parts]
    )
