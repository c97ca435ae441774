"""Text as blocks of tokens in an order that depends on the seed and the block length alone.

An epoch puts its documents in a new order, each followed by an end-of-text token, cuts the stream into blocks and puts these
in a new order too; block i is a pure function of (text, seed, block length, i), so a run can begin anywhere and models, batch sizes and
numbers of processes cannot change what is seen. What is left over at the end of an epoch, less than a block, is another
text in every epoch.

A row never attends across documents: positions restart at zero with each, from which transformers makes the mask. Families whose masks
do not follow positions get one document per row instead, padded (`unpack`): the same targets, more computation.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alibi_cli.errors import UsageError
from alibi_cli.shapes import TokenIds
from alibi_cli.text.tokens import MASKED_SHARE, ids_of
from alibi_cli.training.budget import Budget
from alibi_cli.training.lengths import scale_train_sequence_length

IGNORED = -100  # the target of a position that is not scored


@dataclass(frozen=True)
class Tokens:
    """ids: (N,) int32, an end-of-text token after every document's end. starts: (D + 1,) where documents begin, and N."""

    ids: np.ndarray
    starts: np.ndarray
    fingerprint: dict[str, Any]


def write_tokens(
    folder: Path,
    name: str,
    pieces: Iterable[tuple[str, str, bool]],
    tokenizer: Any,
    end: int,
    limit: int | None,
    normalised: Iterable[str] = (),
) -> None:
    """Tokenises pieces of documents into files in `folder`, one piece in memory at a time; an end-of-text token follows where a document
    ends. A piece counts as a document.

    limit: stop once there are so many tokens; None for all. normalised: what was changed in the text, known when it has been read.

    Raises:
        AlibiError: there is no text.
    """
    digest, starts, n_bytes = hashlib.sha256(), [0], 0
    with (folder / "text.ids").open("wb") as file:
        for title, text, ends in pieces:
            for part in (title.encode(), text.encode()):
                digest.update(len(part).to_bytes(8, "little") + part)
            ids = [*ids_of(text, tokenizer), *([end] if ends else [])]
            file.write(np.asarray(ids, dtype="<i4").tobytes())
            starts.append(starts[-1] + len(ids))
            n_bytes += len(text.encode())
            if limit is not None and starts[-1] >= limit:
                break
    if len(starts) == 1:
        raise UsageError(f"{name} holds no text.")
    np.save(folder / "text.starts.npy", np.asarray(starts, dtype=np.int64))
    facts = {"name": name, "sha256": digest.hexdigest(), "documents": len(starts) - 1, "bytes": n_bytes}
    changes = list(dict.fromkeys(normalised))  # a text may be read twice
    facts = {**facts, "normalised": changes} if changes else facts
    (folder / "text.json").write_text(json.dumps({**facts, "tokens": starts[-1]}))  # last: shows that the rest is whole


def read_tokens(folder: Path) -> Tokens | None:
    """What `write_tokens` wrote, mapped rather than read; None if it did not finish."""
    if not (folder / "text.json").is_file():
        return None
    ids = np.memmap(folder / "text.ids", dtype="<i4", mode="r")
    return Tokens(ids, np.load(folder / "text.starts.npy"), json.loads((folder / "text.json").read_text()))


@dataclass(frozen=True)
class Masking:
    """How a masked model is trained: 15 % of the tokens are targets, of which 80 % are masked and 10 % exchanged (Devlin et al. 2019)."""

    mask: int
    vocabulary: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


class Blocks(torch.utils.data.Dataset):
    """The blocks of a budget; each is {"input_ids", "labels", "documents"}, (block,) int64, and its length in the schedule.

    labels: the token that follows, of the same document, so that no token is lost where a row ends; or the masked ones.
    documents: a number that changes where a document begins.
    """

    def __init__(self, tokens: Tokens, budget: Budget, seed: int, masking: Masking | None = None):
        self.tokens, self.budget, self.seed, self.masking = tokens, budget, seed, masking
        self.per_pass = (len(tokens.ids) - 1) // budget.block
        if self.per_pass == 0:
            raise UsageError(
                f"{tokens.fingerprint['name']} holds {len(tokens.ids):,} tokens, fewer than one sequence of {budget.block}.",
                hint="Give more text or shorter sequences.",
            )
        self._order: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.budget.steps * self.budget.blocks_per_step

    @property
    def passes(self) -> float:
        return len(self) / self.per_pass

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(documents in order, where each begins in the stream, blocks in order) of one epoch."""
        if self._order is None or self._order[0] != number:
            random = np.random.default_rng([self.seed, number])
            documents = random.permutation(len(self.tokens.starts) - 1)
            begins = np.concatenate([[0], np.cumsum(np.diff(self.tokens.starts)[documents])])
            self._order = (number, documents, begins, random.permutation(self.per_pass))
        return self._order[1:]

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, self.per_pass)
        documents, begins, blocks = self._pass(number)
        begin = int(blocks[place]) * self.budget.block
        end = begin + self.budget.block + 1  # and the token after the last
        first, last = np.searchsorted(begins, [begin, end - 1], side="right") - 1
        ids, owners = [], []
        for rank in range(first, last + 1):
            start = self.tokens.starts[documents[rank]] - begins[rank]
            piece = self.tokens.ids[start + max(begin, begins[rank]) : start + min(end, begins[rank + 1])]
            ids.append(np.asarray(piece, dtype=np.int64))
            owners.append(np.full(len(piece), rank))
        row, owner = np.concatenate(ids), np.concatenate(owners)
        length = self.budget.length_of(index)
        if self.masking is None:
            labels = np.where(owner[1:] == owner[:-1], row[1:], IGNORED)
            return {"input_ids": row[:-1], "labels": labels, "documents": owner[:-1], "length": length}
        masked, labels = self._mask(row[:-1], self.masking, index)
        return {"input_ids": masked, "labels": labels, "documents": owner[:-1], "length": length}

    def _mask(self, row: np.ndarray, masking: Masking, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([self.seed, 1, index])
        chosen, fate = random.random(len(row)) < MASKED_SHARE, random.random(len(row))
        masked = np.where(chosen & (fate < 0.8), masking.mask, row)
        masked = np.where(chosen & (fate >= 0.9), random.integers(0, masking.vocabulary, len(row)), masked)
        return masked, np.where(chosen, row, IGNORED)


@dataclass(frozen=True)
class Collator:
    """Blocks -> a batch of rows at the length of their stage: "input_ids", "position_ids" or "attention_mask", and "labels".

    packed: rows hold several documents (see above). "labels" are there twice because transformers' Trainer counts the targets in
    "shift_labels", if a batch has them, and shifts "labels" otherwise; ours are shifted already.
    """

    packed: bool
    masking: Masking | None = None

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        length, block = items[0]["length"], len(items[0]["input_ids"])
        names = ("input_ids", "labels", "documents")
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in names}
        batch = scale_train_sequence_length(batch, length / block)  # (B, block) -> (B * block / length, length)
        documents = batch.pop("documents")
        batch = (
            {**batch, "position_ids": positions(documents)} if self.packed else unpack(batch, documents, self.masking)
        )
        return {**batch, "shift_labels": batch["labels"]}


def positions(documents: TokenIds) -> TokenIds:
    """Document numbers -> positions that begin at 0 with every row and every document."""
    index = torch.arange(documents.shape[1]).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values


def unpack(batch: dict[str, Tensor], documents: Tensor, masking: Masking | None) -> dict[str, Tensor]:
    """One row for every piece of a document, padded on the right; special tokens around it if the model is a masked one."""
    place = positions(documents).flatten()
    sizes = torch.diff(torch.cat([(place == 0).nonzero().flatten(), torch.tensor([place.numel()])])).tolist()
    before, after = (masking.prefix, masking.suffix) if masking else ((), ())

    def rows(values: Tensor, left: Sequence[int], right: Sequence[int], fill: int) -> Tensor:
        around = torch.tensor([*left]), torch.tensor([*right])
        pieces = [torch.cat([around[0], piece, around[1]]).long() for piece in values.split(sizes)]
        return torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=fill)

    ids, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    ignored = [IGNORED] * len(before), [IGNORED] * len(after)
    ones = [1] * len(before), [1] * len(after)
    return {
        "input_ids": rows(ids, before, after, 0),
        "attention_mask": rows(torch.ones_like(ids), *ones, 0),
        "labels": rows(labels, *ignored, IGNORED),
    }


@torch.no_grad()
def keeps_documents_apart(model: Any) -> bool:
    """True if positions that restart at zero make this model compute the second document of a row exactly as it would alone."""
    size = min(4, model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (1, 12), generator=generator).to(model.device)
    places = torch.tensor([[*range(5), *range(7)]], device=model.device)
    try:
        packed = model(input_ids=ids, position_ids=places, use_cache=False).logits[:, 5:]
    except (TypeError, ValueError, RuntimeError):  # a family that takes no positions, or not these
        return False
    alone = model(input_ids=ids[:, 5:], use_cache=False).logits
    return bool((packed - alone).abs().max() <= 1e-4 * alone.abs().max())
