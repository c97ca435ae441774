"""Scores arms on documents, one causal pass over each, and keeps the NLL of every token."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.protocols import Window
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.models.language_model import ModelInfo, describe
from alibi_cli.models.loading import load_tokenizer
from alibi_cli.text.tokens import TokenizedDocument
from benchmarks.real_model import environment, records
from benchmarks.real_model.arms import Arm, ArmFailed, info_of, loaded
from benchmarks.real_model.documents import Document
from benchmarks.real_model.records import BIN, Record, digest

PROBES = (1024, 2048)  # tokens of the passes from which costs are estimated


def tokens_of(documents: Sequence[Document]) -> dict[str, np.ndarray]:
    """All (N,) tokens of each document.

    Raises:
        PipFailed, TextChanged: as `Document.text`.
    """
    tokenizer = load_tokenizer(describe(str(environment.model())))
    return {
        document.name: np.array(tokenizer(document.text(), add_special_tokens=False, verbose=False)["input_ids"])
        for document in documents
    }


def score(model: Any, ids: np.ndarray) -> np.ndarray:
    """(T + 1,) tokens -> (T,) float32 NLL in nats of all but the first, in one pass, the head in chunks.

    Raises:
        OutOfMemory: it does not fit.
    """
    window = Window(0, 0, len(ids), np.arange(1, len(ids)))
    document = TokenizedDocument("", ids, None)
    return Scorer(model, [], []).score([document], [window])[0].astype(np.float32)


class Clock:
    """What is left to do, in seconds: a pass over T tokens costs a T + b T^2, with a and b from two short passes; then from what the passes
    that were made took in fact. A window makes the second term smaller, so that the estimate is high for some arms."""

    def __init__(self, model: Any, ids: np.ndarray):
        score(model, ids[: PROBES[0] + 1])  # the first pass is slower
        (n1, rate1), (n2, rate2) = [(n, _seconds(model, ids[: n + 1]) / n) for n in PROBES]
        self.square = max(0.0, (rate2 - rate1) / (n2 - n1))
        self.linear = max(0.0, rate1 - self.square * n1)
        self.predicted = self.spent = 0.0

    def cost(self, lengths: Sequence[int]) -> float:
        return sum(map(self._predicted, lengths)) * (self.spent / self.predicted if self.predicted else 1.0)

    def took(self, length: int, seconds: float) -> None:
        self.predicted += self._predicted(length)
        self.spent += seconds

    def _predicted(self, length: int) -> float:
        return self.linear * length + self.square * length**2


def _seconds(model: Any, ids: np.ndarray) -> float:
    started = time.monotonic()
    score(model, ids)
    return time.monotonic() - started


def missing(arm: Arm, ids: dict[str, np.ndarray], length: int, model: str | None = None) -> list[str]:
    """Documents without a record of this arm on these tokens; with `model`, also those whose record is of another model."""
    found = []
    for name, tokens in ids.items():
        record = records.load(records.path_of(arm.name, name))
        if (
            record is None
            or record.tokens != digest(tokens)
            or len(record.nll) < length
            or model not in (None, record.model)
        ):
            found.append(name)
    return found


def measure(
    arms: Sequence[Arm],
    ids: dict[str, np.ndarray],
    length: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[str]:
    """Measures what is missing of every arm on every document; the names of arms that could not be made or run."""
    clock, failed = None, []
    for index, arm in enumerate(arms):
        wanted = min(arm.length, length or arm.length) // BIN * BIN
        try:
            info = info_of(arm)
            todo = missing(arm, ids, wanted, info.digest)
            if todo:
                with loaded(info, arm, wanted, device) as model:
                    clock = clock or Clock(model, next(iter(ids.values())))
                    later = [tokens for other in arms[index + 1 :] for tokens in _left(other, ids, length)]
                    _measure(arm, info, model, {name: ids[name] for name in todo}, wanted, clock, later, say)
        except (ArmFailed, AlibiError, OutOfMemory) as error:
            failed.append(arm.name)
            say(f"{arm.name}: {error or 'out of memory'}")
            continue
        about = {"model": info.digest, "length": wanted, "versions": {n: version(n) for n in ("torch", "transformers")}}
        records.summarise(arm.name, arm.what, about)
    return failed


def _left(arm: Arm, ids: dict[str, np.ndarray], length: int | None) -> list[int]:
    wanted = min(arm.length, length or arm.length)
    return [wanted] * len(missing(arm, ids, wanted))


def _measure(
    arm: Arm,
    info: ModelInfo,
    model: Any,
    ids: dict[str, np.ndarray],
    length: int,
    clock: Clock,
    later: list[int],
    say: Callable[[str], None],
) -> None:
    here = clock.cost([length] * len(ids))
    total = here + clock.cost(later)
    say(
        f"{arm.name}: {len(ids)} documents, about {_minutes(here)}; {_minutes(total)} with all arms, conversions not counted"
    )
    for done, (name, tokens) in enumerate(ids.items(), 1):
        started = time.monotonic()
        nll = score(model, tokens[: length + 1])
        seconds = time.monotonic() - started
        clock.took(length, seconds)
        facts = {
            "seconds": round(seconds, 2),
            "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
            "threads": torch.get_num_threads(),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        records.save(Record(nll, digest(tokens), info.digest, facts), records.path_of(arm.name, name))
        left = clock.cost([length] * (len(ids) - done) + later)
        say(f"  {name:18} NLL {nll.mean(dtype=np.float64):.4f}  {seconds:6.1f} s, {_minutes(left)} left")


def _minutes(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.1f} minutes"
