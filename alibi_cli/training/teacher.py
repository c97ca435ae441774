"""What a teacher says about sequences that are longer than it was trained for.

Beyond its trained length L it would only make mistakes, and one with absolute position embeddings cannot be run at all. So it is fed
windows of L tokens that begin L / 2 apart, each as a text of its own, and speaks about the second half of each (of the first, about all):
every token is predicted from its last L / 2 tokens at least. One that fills in masked tokens speaks about the middle half, since it reads
ahead too.

Shapes: B rows, T tokens of a row, P windows of a row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alibi_cli.shapes import Hidden, Logits


@dataclass(frozen=True)
class Teacher:
    """length: tokens that the model was trained for; None: it has no such limit."""

    model: Any
    length: int | None = None
    masked: bool = False

    @torch.no_grad()
    def __call__(self, fed: dict[str, Any]) -> tuple[Logits, Sequence[Hidden] | None]:
        """A batch as the student is fed it -> logits, and hidden states of each layer if they are asked for."""
        total = fed["input_ids"].shape[1]
        length = min(self.length or total, total)
        starts = [*range(0, total - length, max(1, length // 2)), total - length]
        pieces = {
            name: torch.cat([value[:, start : start + length] for start in starts]) if torch.is_tensor(value) else value
            for name, value in fed.items()
        }
        if "position_ids" in pieces:
            pieces["position_ids"] = from_zero(pieces["position_ids"])
        outputs = self.model(**pieces)
        hidden = outputs.hidden_states and [self._joined(state, starts) for state in outputs.hidden_states]
        return self._joined(outputs.logits, starts), hidden

    def _joined(self, values: Tensor, starts: list[int]) -> Tensor:
        """(P * B, L, n) -> (B, T, n), of each window what no other one says better"""
        length, ahead = values.shape[1], values.shape[1] // 4 if self.masked else 0
        ends = [*(start + length - ahead for start in starts[:-1]), starts[-1] + length]
        parts, said = [], 0
        for start, end, part in zip(starts, ends, values.chunk(len(starts)), strict=True):
            parts.append(part[:, said - start : end - start])
            said = end
        return torch.cat(parts, dim=1)


def from_zero(positions: Tensor) -> Tensor:
    """(n, L) positions that begin at 0 with every document -> the same where a document that was cut begins at 0 too."""
    cut = (positions == 0).cumsum(1) == 0
    return positions - torch.where(cut, positions[:, :1], 0)
