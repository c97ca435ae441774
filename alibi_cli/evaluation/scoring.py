"""One negative log-likelihood per scored token, without ever holding the logits of a window.

The body of the model runs once over a batch of windows; its head then runs on the hidden states of the scored tokens alone, in chunks.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

from alibi_cli.evaluation.processes import ALONE, Processes
from alibi_cli.evaluation.protocols import Window
from alibi_cli.evaluation.rotation import forget_lengths
from alibi_cli.models.body_and_head import LOGITS_PER_CHUNK, BodyAndHead
from alibi_cli.surgery.engine import replace_module_classes
from alibi_cli.text.tokens import TokenizedDocument

TOKENS_PER_BATCH = 8192
TOKENS_ON_CPU = 1024  # more would not keep its cores busier, and their activations would fall out of its cache
# Activations made of seven operations, each of which reads and writes everything, and the same function in one.
FUSED: dict[type[torch.nn.Module], Any] = {
    activation: lambda module, index: GELUTanh() for activation in (NewGELUActivation, FastGELUActivation)
}


@contextmanager
def fused_activations(model: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the model computes with `FUSED`."""
    before = {new: old for old, new in replace_module_classes(model, FUSED).items()}
    try:
        yield
    finally:
        for module in model.modules():
            for name, child in module.named_children():
                if child in before:
                    setattr(module, name, before[child])


class OutOfMemory(Exception):
    """A single window does not fit."""


class Scorer:
    """Scores windows with one model.

    prefix, suffix: special tokens around every window. mask_token: the id that replaces scored tokens, for a masked model.
    batch_size: windows per batch; chosen from a budget of tokens if not given. logits_per_chunk: bound of the head's output. processes:
    those that share the batches, each with its own copy of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: list[int],
        suffix: list[int],
        mask_token: int | None = None,
        batch_size: int | None = None,
        logits_per_chunk: int = LOGITS_PER_CHUNK,
        processes: Processes = ALONE,
    ):
        self.model, self.mask_token, self.processes = model.eval(), mask_token, processes
        self.prefix = np.array(prefix, dtype=np.int64)
        self.suffix = np.array(suffix if mask_token is not None else [], dtype=np.int64)
        self.batch_size, self.logits_per_chunk = batch_size, logits_per_chunk
        self.halves = BodyAndHead(model)
        self.exact = torch.promote_types(model.dtype, torch.float32)

    @torch.no_grad()
    def score(
        self,
        documents: list[TokenizedDocument],
        windows: list[Window],
        on_window: Callable[[int], None] = lambda n: None,
    ) -> list[np.ndarray]:
        """The NLL in nats of every target of every window, in the order of `windows`.

        Windows of equal size share a batch, no window is padded, and what a dynamic rotation remembers is undone before every batch, so
        neither batch size nor neighbours nor order change a result beyond rounding. A batch that does not fit into memory is halved. Of
        several processes every one returns everything, bit for bit what one process computes, as long as no batch was halved.

        Raises:
            OutOfMemory: not even one window fits, in this or another process.
        """
        batches = self._batches(windows)
        with fused_activations(self.model):
            own = self._score_batches(documents, windows, self.processes.share(batches), on_window)
        found = self.processes.gather(own)
        scores: list[np.ndarray] = [np.empty(0)] * len(windows)
        for part in found:
            if part is None:
                raise OutOfMemory
            for index, score in part.items():
                scores[index] = score
        return scores

    def _batches(self, windows: list[Window]) -> list[list[int]]:
        """Indices of windows that run together, the longest first, whatever the number of processes."""
        by_size: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_size.setdefault(window.end - window.begin, []).append(index)
        budget = budget_of(self.halves.device.type)
        batches = []
        for size, indices in sorted(by_size.items(), reverse=True):
            n = self.batch_size or max(1, budget // size)
            batches += [indices[begin : begin + n] for begin in range(0, len(indices), n)]
        return batches

    def _score_batches(
        self,
        documents: list[TokenizedDocument],
        windows: list[Window],
        batches: Sequence[list[int]],
        on_window: Callable[[int], None],
    ) -> dict[int, np.ndarray] | None:
        """{index of a window: its NLLs}; None if one window alone does not fit."""
        scores: dict[int, np.ndarray] = {}
        waiting = list(batches)
        while waiting:
            batch = waiting[0]
            try:
                results = self._score_batch(documents, [windows[index] for index in batch])
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not _is_out_of_memory(error):
                    raise
                results = None  # leave the handler first: its traceback keeps the tensors alive
            if results is None:
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if len(batch) == 1:
                    return None
                waiting = [half for batch in waiting for half in _halves(batch)]
                continue
            scores |= zip(batch, results, strict=True)
            waiting = waiting[1:]
            on_window(len(batch) * self.processes.count)  # the other processes are about as far
        return scores

    def _score_batch(self, documents: list[TokenizedDocument], windows: list[Window]) -> list[np.ndarray]:
        rows, places, targets = [], [], []
        for window in windows:
            ids = documents[window.document].ids
            fed = ids[window.begin : window.end].copy()
            place = window.targets - window.begin + len(self.prefix)  # where the prediction of each target is read
            targets.append(ids[window.targets])
            if self.mask_token is None:
                fed, place = fed[:-1], place - 1
            else:
                fed[window.targets - window.begin] = self.mask_token
            rows.append(np.concatenate([self.prefix, fed, self.suffix]))
            places.append(place)
        forget_lengths(self.model)
        hidden = self.halves.hidden(torch.from_numpy(np.stack(rows)).to(self.halves.device))  # (B, L, d)
        row_of = np.repeat(np.arange(len(windows)), [len(place) for place in places])
        picked = hidden[
            torch.from_numpy(row_of).to(hidden.device), torch.from_numpy(np.concatenate(places)).to(hidden.device)
        ]  # (n, d)
        del hidden
        losses = self._losses(picked, torch.from_numpy(np.concatenate(targets)).to(picked.device))
        return np.split(losses.double().cpu().numpy(), np.cumsum([len(place) for place in places])[:-1])

    def _losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(n, d) hidden states and (n,) tokens -> (n,) NLL, float32 or better."""
        chunk = max(1, self.logits_per_chunk // self.model.config.vocab_size)
        parts = [
            self._losses_of_chunk(states, wanted)
            for states, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.cat(parts)

    def _losses_of_chunk(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """A function of its own, so that one chunk's logits are gone before the next one's are made."""
        logits = self.halves.logits(hidden)  # (chunk, V)
        rows = max(1, len(hidden) // 16)  # a softmax takes as much memory as its logits: a few rows at a time
        pairs = zip(logits.split(rows), targets.to(logits.device).split(rows), strict=True)
        return torch.cat([self.read(some.to(self.exact), wanted) for some, wanted in pairs])

    def read(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(n, V) logits and (n,) targets -> (n,) figures, here the NLL in nats; tasks read something else."""
        return cross_entropy(logits, targets, reduction="none")


def budget_of(device: str) -> int:
    """Tokens of a batch on a kind of device."""
    return TOKENS_ON_CPU if device == "cpu" else TOKENS_PER_BATCH


def _halves(batch: list[int]) -> list[list[int]]:
    half = (len(batch) + 1) // 2
    return [part for part in (batch[:half], batch[half:]) if part]


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or "can't allocate memory" in text
    )
