"""ListOps: nested minima, maxima, medians and sums modulo ten of single digits (Nangia and Bowman 2018, arXiv 1804.06028), at the lengths
of Long Range Arena (Tay et al. 2020, arXiv 2011.04006).

There the models are trained for the task; here a language model gets two worked examples and the expression, and the answer is the most
likely of the ten digits. Every digit is the answer equally often, so that a model that always says the same is right in one case of ten,
not more.
"""

import random
from collections.abc import Callable
from typing import ClassVar

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.tasks.task import Encode, Item, Task, register_task, too_short

Tree = int | tuple[str, list["Tree"]]


def _median(values: list[int]) -> int:
    """Of an even number of values, the mean of the two in the middle, rounded down, as in the original."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "MIN": min,
    "MAX": max,
    "MED": _median,
    "SM": lambda values: sum(values) % 10,
}
MOST_ARGUMENTS = 10
SHORTEST = 4  # symbols: an operator, two digits, a bracket
EXAMPLES = "MIN, MAX, MED: median, SM: sum modulo 10.\n[MAX 2 [MIN 4 7 ] 9 ] = 9\n[SM 5 [MED 1 8 3 ] 6 ] = 4\n"
ATTEMPTS = 2000


def grow(rng: random.Random, symbols: int) -> Tree:
    """A random expression of exactly `symbols` symbols (operators, digits and closing brackets); a digit if those are too few for more."""
    if symbols < SHORTEST:
        return rng.randrange(10)
    left = symbols - 2
    parts = rng.randint(2, min(MOST_ARGUMENTS - 2, left))
    sizes = []
    for following in range(parts - 1, 0, -1):
        share = rng.randint(1, left - following)
        share = share if share >= SHORTEST else 1
        sizes.append(share)
        left -= share
    sizes += [left] if left >= SHORTEST else [1] * left  # up to two arguments more than planned
    rng.shuffle(sizes)
    return rng.choice(list(OPERATORS)), [grow(rng, size) for size in sizes]


def evaluate(tree: Tree) -> int:
    return tree if isinstance(tree, int) else OPERATORS[tree[0]]([evaluate(part) for part in tree[1]])


def write(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"[{tree[0]} {' '.join(map(write, tree[1]))} ]"


@register_task("listops")
class ListOps(Task):
    chance: ClassVar[float] = 0.1
    samples: ClassVar[int] = 100

    def item(self, encode: Encode, room: int, depth: float | None, index: int, rng: random.Random) -> Item:
        wanted, choices = index % 10, _digits(encode)
        head, symbols = len(encode(EXAMPLES)), room
        for _ in range(ATTEMPTS):
            tree = grow(rng, symbols)
            if evaluate(tree) != wanted:
                continue
            text = f"{EXAMPLES}{write(tree)} ="
            whole = encode(f"{text} {wanted}")
            if len(whole) > room:
                if symbols == SHORTEST:
                    raise too_short("listops", room, len(whole))
                # Tokens are nearly proportional to symbols: one step of that rule, and always at least one symbol less.
                proportional = symbols * max(room - head, 0) // (len(whole) - head)
                symbols = max(SHORTEST, min(symbols - 1, proportional))
                continue
            if whole[-1] != choices[wanted]:
                raise _no_digits()
            return Item(text, f" {wanted}", whole[:-1], whole[-1:], choices)
        raise AlibiError(f"No expression of {room} tokens was found. This is a bug.")


def _digits(encode: Encode) -> list[int]:
    """The token that ends "… = d", for d from 0 to 9."""
    ends = [encode(f"1 ] = {digit}") for digit in range(10)]
    choices = [end[-1] for end in ends]
    if len(set(choices)) < 10 or len({tuple(end[:-1]) for end in ends}) > 1:
        raise _no_digits()
    return choices


def _no_digits() -> AlibiError:
    return AlibiError("This tokenizer has no token of its own for each of the ten digits, which listops needs.")
