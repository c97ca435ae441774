"""As much of a text as a budget needs: pieces chosen by the seed, so that a short run does not tokenise a library."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Documents = Iterable[tuple[str, str]]
CHARACTERS_PER_TOKEN = 8  # more than tokens of any usual text have, so that what is chosen is enough
PER_PIECE = 4  # characters for each token of a block: pieces of about a block


def enough(
    read: Callable[[], tuple[str, Documents]], tokens: int, block: int, seed: int
) -> tuple[str, Iterable[tuple[str, str, bool]], int | None]:
    """(name, pieces, how many tokens to stop at) of a text, which is read twice; a piece is (title, text, whether it ends
    its document).

    All documents in order, if they have no more than `CHARACTERS_PER_TOKEN` for each token. Else pieces from all over the text, about a
    block long: as many documents take part as would in a pass over everything.
    """
    wanted, size = tokens * CHARACTERS_PER_TOKEN, block * PER_PIECE
    lengths = [len(text) for _, text in read()[1]]
    name, documents = read()
    if sum(lengths) <= wanted:
        return name, whole(documents), None
    places = [(index, begin) for index, length in enumerate(lengths) for begin in range(0, max(1, length), size)]
    order = np.random.default_rng([seed, 2]).permutation(len(places))
    found = np.cumsum([min(size, lengths[index] - begin) for index, begin in (places[n] for n in order)])
    chosen = {places[n]: rank for rank, n in enumerate(order[: int(np.searchsorted(found, wanted)) + 1])}
    pieces = sorted(
        (chosen[index, begin], (title, text[begin : begin + size], begin + size >= len(text)))
        for index, (title, text) in enumerate(documents)
        for begin in range(0, max(1, len(text)), size)
        if (index, begin) in chosen
    )
    return f"{name}, chosen pieces", [piece for _, piece in pieces], tokens


def whole(documents: Documents) -> Iterator[tuple[str, str, bool]]:
    """Documents as pieces."""
    return ((title, text, True) for title, text in documents)
