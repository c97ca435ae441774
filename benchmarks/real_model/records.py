"""What is kept of a measurement, and the sums that everything else is computed from.

build/real_model/records/ARM/DOCUMENT.npz     the NLL of every token, with digests of tokens and model: the record itself
benchmarks/real_model/records/ARM.json        its sums over 256 tokens at a time, for every document: enough for every mean, difference and
                                              interval of the report, and small enough to commit
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_model.packages import WORK

FULL, SUMS = WORK / "records", Path(__file__).parent / "records"
BIN = 256
# Ends of the bands, in tokens of context: the first token has none and is not scored; the band (0, 1024] has those with 1 to 1,024.
ENDS = (1024, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384)
BANDS = tuple(zip((0, *ENDS[:-1]), ENDS, strict=True))


@dataclass(frozen=True)
class Record:
    """nll: (T,) float32 nats; entry i is of the token with i + 1 tokens before it. tokens, model: sha256 of the whole document and of
    what scored it.
    facts: seconds, device, threads, type."""

    nll: np.ndarray
    tokens: str
    model: str
    facts: dict[str, Any]

    def sums(self) -> np.ndarray:
        """(T / 256,) float64."""
        return self.nll.astype(np.float64).reshape(-1, BIN).sum(1)


def digest(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def path_of(arm: str, document: str) -> Path:
    return FULL / arm / f"{document}.npz"


def save(record: Record, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    facts = json.dumps({"tokens": record.tokens, "model": record.model, **record.facts})
    with partial.open("wb") as file:
        np.savez(file, nll=record.nll.astype(np.float32), facts=np.array(facts))
    partial.replace(path)


def load(path: Path) -> Record | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as content:
        facts = json.loads(str(content["facts"]))
        return Record(content["nll"], facts.pop("tokens"), facts.pop("model"), facts)


def summarise(arm: str, what: str, about: dict[str, Any]) -> None:
    """Writes the sums of all of an arm's records."""
    found = {path.stem: record for path in sorted((FULL / arm).glob("*.npz")) if (record := load(path)) is not None}
    documents = {
        name: {"tokens": record.tokens, **record.facts, "sums": [round(float(value), 4) for value in record.sums()]}
        for name, record in found.items()
    }
    SUMS.mkdir(parents=True, exist_ok=True)
    content = {"arm": arm, "what": what, **about, "bin": BIN, "documents": documents}
    partial = SUMS / f"{arm}.partial"
    partial.write_text(json.dumps(content) + "\n")
    partial.replace(SUMS / f"{arm}.json")


@dataclass(frozen=True)
class Sums:
    """Of one arm: {document: (T / 256,) sums of NLL}, and {document: sha256 of its tokens}."""

    of: dict[str, np.ndarray]
    tokens: dict[str, str]

    @staticmethod
    def read(arm: str) -> "Sums | None":
        path = SUMS / f"{arm}.json"
        if not path.is_file():
            return None
        documents = json.loads(path.read_text())["documents"]
        sums = {name: np.array(entry["sums"]) for name, entry in documents.items()}
        return Sums(sums, {name: entry["tokens"] for name, entry in documents.items()})

    def over(self, start: int, end: int, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(sums, counts), both (D,): of the tokens with start + 1 to end tokens of context in each of these documents."""
        first, last = start // BIN, end // BIN
        sums = np.array([self.of[name][first:last].sum() for name in names])
        return sums, np.full(len(names), float(end - start))

    def reaching(self, end: int) -> list[str]:
        """The documents of which so many tokens were scored."""
        return sorted(name for name, sums in self.of.items() if len(sums) * BIN >= end)
