"""A budget of text: segments drawn from all of it, the same ones whatever is measured of them."""

from dataclasses import dataclass

import numpy as np

from alibi_cli.text.tokens import TokenizedDocument


@dataclass(frozen=True)
class Drawn:
    """texts: what is scored, in the order of the text. count: how many segments that is, of how many in `available`."""

    texts: list[TokenizedDocument]
    count: int
    available: int


def draw(documents: list[TokenizedDocument], segments: int, size: int, whole: bool, seed: int) -> Drawn:
    """Draws `segments` segments of `size` tokens, each a text of its own, out of those that begin at every multiple of `size`.

    One of every document is drawn before a second one of any, and where in the document it lies is drawn too. A text that has no more
    segments than that stays as it is.

    whole: False counts what is left over at the end of a document, or a short document, as a segment too.
    """
    counts = [len(document.ids) // size if whole else -(-len(document.ids) // size) for document in documents]
    available = sum(counts)
    if segments >= available:
        return Drawn(documents, available, available)
    of = np.repeat(np.arange(len(documents)), counts)  # (available,) the document of each segment
    number = np.concatenate([np.arange(count) for count in counts])  # and which of its segments it is
    rng = np.random.default_rng(seed)
    shuffled = number[np.lexsort((rng.random(available), of))]  # within each document
    drawn = np.lexsort((rng.random(available), number))[
        :segments
    ]  # the first of every document, the second of every one, …
    chosen = sorted(zip(of[drawn].tolist(), shuffled[drawn].tolist(), strict=True))
    return Drawn([documents[index].part(n * size, (n + 1) * size) for index, n in chosen], segments, available)
