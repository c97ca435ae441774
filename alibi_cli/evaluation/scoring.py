"""One negative log-likelihood per scored token, without ever holding the logits of a window.

The body of the model runs once over a batch of windows; its head then runs on the hidden states of the scored tokens alone, in chunks.
"""

import gc
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from alibi_cli.evaluation.head import LOGITS_PER_CHUNK, BodyAndHead
from alibi_cli.evaluation.tokens import TokenizedDocument
from alibi_cli.evaluation.windows import Window

TOKENS_PER_BATCH = 8192


class OutOfMemory(Exception):
    """A single window does not fit."""


class Scorer:
    """Scores windows with one model.

    prefix, suffix: special tokens around every window. mask_token: the id that replaces scored tokens, for a masked model.
    batch_size: windows per batch; chosen from a budget of tokens if not given. logits_per_chunk: bound of the head's output.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: list[int],
        suffix: list[int],
        mask_token: int | None = None,
        batch_size: int | None = None,
        logits_per_chunk: int = LOGITS_PER_CHUNK,
    ):
        self.model, self.prefix, self.suffix, self.mask_token = (
            model.eval(),
            prefix,
            suffix if mask_token is not None else [],
            mask_token,
        )
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

        Windows of equal size share a batch and no window is padded, so neither batch size nor neighbours change a result beyond
        rounding. A batch that does not fit into memory is halved.

        Raises:
            OutOfMemory: not even one window fits.
        """
        by_size: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_size.setdefault(window.end - window.begin, []).append(index)
        scores: list[np.ndarray] = [np.empty(0)] * len(windows)
        for size, waiting in sorted(by_size.items(), reverse=True):
            indices = waiting  # shrinks as batches succeed
            batch_size = self.batch_size or max(1, TOKENS_PER_BATCH // size)
            while indices:
                batch, rest = indices[:batch_size], indices[batch_size:]
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
                    if batch_size == 1:
                        raise OutOfMemory
                    batch_size = max(1, len(batch) // 2)
                    continue
                for index, result in zip(batch, results, strict=True):
                    scores[index] = result
                on_window(len(batch))
                indices = rest
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
            rows.append([*self.prefix, *fed, *self.suffix])
            places.append(place)
        device = self.model.device
        inputs = torch.tensor(rows, device=device)  # (B, L)
        hidden = self.halves.hidden(inputs)  # (B, L, d)
        row_of = np.repeat(np.arange(len(windows)), [len(place) for place in places])
        picked = hidden[
            torch.as_tensor(row_of, device=device), torch.as_tensor(np.concatenate(places), device=device)
        ]  # (n, d)
        del hidden
        losses = self._losses(picked, torch.as_tensor(np.concatenate(targets), device=device))
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
        pairs = zip(logits.split(rows), targets.split(rows), strict=True)
        return torch.cat([self.read(some.to(self.exact), wanted) for some, wanted in pairs])

    def read(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(n, V) logits and (n,) targets -> (n,) figures, here the NLL in nats; tasks read something else."""
        return cross_entropy(logits, targets, reduction="none")


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or "can't allocate memory" in text
    )
