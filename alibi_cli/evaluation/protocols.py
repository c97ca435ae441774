"""Which tokens are fed and which are scored: the protocols.

A *window* of length L feeds at most L tokens to the model, special tokens included. Of a document of N tokens:

fixed-target     the document is cut into segments as long as the longest length; at every length L the same last K tokens of each segment
                 are scored, with L - K to L - 1 tokens before them. Only the context differs between lengths.
sliding          windows advance by S tokens and score the S tokens that are new (the first window scores all): every token once.
non-overlapping  sliding with S = L: windows share only the one token that carries over, so every token is scored once at every length.
lm-eval          as lm-evaluation-harness's loglikelihood_rolling: non-overlapping, except that the last window reaches back to a full L
                 tokens, and that a document begins with one BOS (or EOS) token, which is part of it here (`tokens.enclosed`).

In the last three, the early tokens of a window have little context, and there are fewer of them the longer the window is: perplexity falls
with L on any model. That is not extrapolation; fixed-target does not have it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from alibi_cli.errors import UsageError
from alibi_cli.settings.measuring import ProtocolName
from alibi_cli.text.tokens import MASKED_SHARE, TokenizedDocument

PROTOCOLS = get_args(ProtocolName)


@dataclass(frozen=True)
class Window:
    """Text tokens [begin, end) of a document are in the window; those in `targets` (ascending positions in the document) are scored."""

    document: int
    begin: int
    end: int
    targets: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """How text is cut. targets: K of fixed-target. stride: S of sliding. prefix, suffix: number of special tokens around each window.
    masked: the model fills in masked tokens (15 % of positions, chosen by the document's name) instead of predicting the next one."""

    name: str
    lengths: tuple[int, ...]
    targets: int | None = None
    stride: int | None = None
    prefix: int = 0
    suffix: int = 0
    masked: bool = False

    def room(self, length: int) -> int:
        """Text tokens in a window of `length`."""
        return length - self.prefix - (self.suffix if self.masked else 0)

    def windows(self, documents: list[TokenizedDocument], length: int) -> list[Window]:
        """All windows of one length.

        Raises:
            AlibiError: no document is long enough.
        """
        cut = self._fixed if self.name == "fixed-target" else self._strided
        found = []
        for index, document in enumerate(documents):
            chosen = self._chosen(document)
            for begin, first, end in cut(len(document.ids), length):
                targets = np.arange(first, end)
                if chosen is not None:
                    targets = targets[chosen[first:end]]
                if len(targets):
                    found.append(Window(index, begin, end, targets))
        if not found:
            longest = max((len(document.ids) for document in documents), default=0)
            raise UsageError(
                f"No document is long enough: the longest has {longest} tokens, and {self.name} at {max(self.lengths)} needs more.",
                hint="Use shorter `lengths`, other text, or `protocol=non-overlapping`.",
            )
        return found

    def _fixed(self, n_tokens: int, length: int) -> Iterator[tuple[int, int, int]]:
        segment = self.room(max(self.lengths))
        for end in range(segment, n_tokens + 1, segment):
            yield end - self.room(length), end - (self.targets or 0), end

    def _strided(self, n_tokens: int, length: int) -> Iterator[tuple[int, int, int]]:
        room = self.room(length)
        stride = min(self.stride or room, room)
        # A causal model is fed the tokens before its targets, so the first token of a text without a prefix cannot be scored.
        carried = 0 if self.masked else 1
        first, end = (0 if self.masked or self.prefix else 1), min(n_tokens, room + carried)
        begin = 0
        while first < end:
            yield begin, first, end
            first, end = end, min(n_tokens, end + stride)
            begin = first - carried - (room - stride) if self.name != "lm-eval" else end - carried - room

    def _chosen(self, document: TokenizedDocument) -> np.ndarray | None:
        """(N,) the positions that are masked: the same at every length, because they depend on the document and the place in it alone."""
        if not self.masked:
            return None
        seed = int.from_bytes(document.name.encode()[-64:], "little")
        return np.random.default_rng(seed).random(document.start + len(document.ids))[document.start :] < MASKED_SHARE


def make_protocol(
    name: str,
    lengths: tuple[int, ...],
    targets: int | None = None,
    stride: int | None = None,
    prefix: int = 0,
    suffix: int = 0,
    masked: bool = False,
    truncated: int | None = None,
) -> Protocol:
    """A checked protocol. `truncated`: the shortest length to which the arm of that name cuts windows, which must hold the targets too.

    Raises:
        AlibiError: an option that the protocol does not have, or numbers that leave nothing to score.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"There is no protocol {name!r}; there are {', '.join(PROTOCOLS)}.")
    if targets is not None and name != "fixed-target":
        raise UsageError(f"`targets` belongs to the fixed-target protocol, not to {name}.")
    if (stride is None) == (name == "sliding"):
        raise UsageError("The sliding protocol, and no other, needs `stride`.")
    if name == "lm-eval" and masked:
        raise UsageError("The lm-eval protocol is for models that predict the next token, not for masked ones.")
    if name == "fixed-target" and targets is None:
        targets = max(1, min(256, min(*lengths, truncated or max(lengths)) // 2))
    protocol = Protocol(name, tuple(lengths), targets, stride, prefix, suffix, masked)
    shortest = protocol.room(min(*lengths, truncated or max(lengths)))
    if targets is not None and not 1 <= targets < shortest + (1 if masked or prefix else 0):
        raise UsageError(
            f"`targets={targets}` leaves no context in a window of {shortest} tokens.",
            hint="K must be smaller than the shortest length.",
        )
    if stride is not None and not 1 <= stride <= protocol.room(min(lengths)):
        raise UsageError(
            f"`stride` must lie between 1 and {protocol.room(min(lengths))}, the shortest window; it is {stride}.",
        )
    if shortest < 1:
        raise UsageError(f"A window of {min(lengths)} tokens has no room for text.")
    return protocol
