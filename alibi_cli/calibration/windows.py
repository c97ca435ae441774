"""The text that a calibration reads, cut into windows of the length that the model was trained for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alibi_cli.errors import UsageError
from alibi_cli.text.documents import Text
from alibi_cli.text.tokens import end_of_text, ids_of, special_tokens

MASKED_ONE_IN = 7  # about the 15 % of tokens that BERT was trained to fill in
WHOLE = 4  # windows that lie in one document and are taken before those of others


@dataclass(frozen=True)
class CalibrationWindows:
    """input_ids: (N, L) with the tokenizer's special tokens around each window. compared: (N, L), true where the two models' predictions
    are compared: everywhere for a model that predicts the next token, at the masked tokens for one that fills them in."""

    input_ids: torch.Tensor
    compared: torch.Tensor
    text: dict[str, Any]

    @property
    def n_tokens(self) -> int:
        return self.input_ids.numel()

    def split(self, n: int) -> tuple["CalibrationWindows", "CalibrationWindows"]:
        """The first `n` windows, and the others."""
        parts = zip(self.input_ids.tensor_split([n]), self.compared.tensor_split([n]), strict=True)
        first, others = (CalibrationWindows(*part, self.text) for part in parts)
        return first, others

    def of_length(self, length: int, compared_at_end: int) -> "CalibrationWindows":
        """The first `length` tokens of each window, of which only the last are compared."""
        compared = self.compared[:, :length].clone()
        compared[:, : length - compared_at_end] = False
        return CalibrationWindows(self.input_ids[:, :length], compared, self.text)

    def batches(self, tokens: int) -> list["CalibrationWindows"]:
        """Parts of at most so many tokens, and of one window at least."""
        size = max(1, tokens // self.input_ids.shape[1])
        parts = zip(self.input_ids.split(size), self.compared.split(size), strict=True)
        return [CalibrationWindows(*part, self.text) for part in parts]

    def batch(self, rows: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return self.input_ids[rows].to(device), self.compared[rows].to(device)


@dataclass(frozen=True)
class Parts:
    """Windows of one length from disjoint parts of a text: what is learned from, what choices are made by (early stop, factors), and
    what is reported on."""

    learned_from: CalibrationWindows
    chosen_by: CalibrationWindows
    reported_on: CalibrationWindows

    @classmethod
    def of(cls, windows: CalibrationWindows, n_tokens: int) -> "Parts":
        """At most `n_tokens` to learn from; of the rest, half each for the other two, a window at least."""
        rows, length = windows.input_ids.shape
        learned = min(max(1, n_tokens // length), rows - 2)
        chosen = (rows - learned) // 2
        if learned < 1:
            raise UsageError(
                f"{windows.text['name']} gives {rows} windows of {length} tokens; calibration needs three.",
                hint="Give more text.",
            )
        first, others = windows.split(learned)
        return cls(first, *others.split(chosen))


def make_windows(
    text: Text, tokenizer: Any, length: int, n_tokens: int, masked: bool = False, seed: int = 0, whole: bool = False
) -> CalibrationWindows:
    """At most `n_tokens` tokens of `text`, its documents in an order drawn from `seed`, one after the other, each followed by
    the tokenizer's end-of-text token if it has one.

    whole: windows that lie in one document come first, four of each before the others, and only the rest is made as above: far context
    of another document says nothing.

    Raises:
        AlibiError: the text is shorter than two windows.
    """
    generator = np.random.default_rng(seed)
    prefix, suffix = special_tokens(tokenizer)
    suffix = suffix if masked else []
    room = length - len(prefix) - len(suffix)
    end = [] if (token := end_of_text(tokenizer)) is None else [token]
    wanted = max(2, n_tokens // length) * room
    stream: list[int] = []
    inside: list[int] = []
    others: list[int] = []
    for index in generator.permutation(len(text.documents)):
        if len(inside) >= wanted or (not whole and len(stream) >= wanted):
            break
        part = text.documents[index][1][: 64 * wanted]  # no need to tokenise all of a book for a few windows
        ids = [*ids_of(part, tokenizer), *end]
        if whole and len(ids) >= room > 0:
            first, end_of_whole = WHOLE * room, len(ids) // room * room
            inside += ids[: min(first, end_of_whole)]
            others += ids[first:end_of_whole]
        elif len(stream) < wanted:
            stream += ids
    stream = [*inside, *others, *stream]
    count = min(len(stream), wanted) // room if room > 0 else 0
    if count < 2:
        raise UsageError(
            f"{text.name} has {len(stream):,} tokens; calibration needs at least two windows of {length}.",
            hint="Give more text.",
        )
    rows = np.asarray(stream[: count * room], dtype=np.int64).reshape(count, room)
    rows = rows[generator.permutation(count)]  # neighbours come from one document
    compared = np.ones_like(rows, dtype=bool)
    if masked:
        compared = generator.random(rows.shape) < 1 / MASKED_ONE_IN
        compared[:, 0] |= ~compared.any(1)
        rows = np.where(compared, tokenizer.mask_token_id, rows)
    around = [(0, 0), (len(prefix), len(suffix))]
    input_ids = np.pad(rows, around)
    input_ids[:, : len(prefix)] = prefix
    input_ids[:, len(prefix) + room :] = suffix
    return CalibrationWindows(
        torch.from_numpy(input_ids), torch.from_numpy(np.pad(compared, around)), text.fingerprint()
    )
