"""Passkey retrieval: a five-digit number in the middle of chatter, asked for at the end.

After Mohtashami and Jaggi 2023 (arXiv 2305.16300), with other sentences. The score is exact match of the greedy
continuation: with the right answer fed, every one of its tokens must be the most likely one, which is when a greedy decoder would have
written it.
"""

import random
from typing import ClassVar

from alibi_cli.evaluation.tasks.task import Encode, Item, Task, fitting, register_task, too_short

INTRODUCTION = "Somewhere in this text there is a pass key. Find it and keep it in mind.\n"
NEEDLE = " The pass key is {key}. Keep it in mind: {key} is the pass key."
QUESTION = "\nWhat was the pass key? The pass key is"
CHATTER = (  # no digits, so that nothing else looks like a key
    " Rain fell on the harbour all morning.",
    " A baker opened the shutters of the shop.",
    " Two gulls quarrelled over a crust.",
    " The ferry left a little late.",
    " Somebody was whistling in the yard.",
    " By noon the clouds had thinned.",
    " The tide went out and came back in.",
    " A cat slept on the warm stones.",
)


@register_task("passkey")
class Passkey(Task):
    """depth d: a share d of the chatter stands before the sentence with the number."""

    chance: ClassVar[float] = 1 / 90_000
    samples: ClassVar[int] = 10
    depths: ClassVar[tuple[float | None, ...]] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def item(self, encode: Encode, room: int, depth: float | None, index: int, rng: random.Random) -> Item:
        key = str(rng.randrange(10_000, 100_000))
        chatter = [rng.choice(CHATTER) for _ in range(room)]  # a sentence is more than one token: always enough
        answer = f" {key}"

        def text(n: int) -> str:
            before = round((depth or 0.0) * n)
            needle = NEEDLE.format(key=key)
            return INTRODUCTION + "".join([*chatter[:before], needle, *chatter[before:n]]) + QUESTION

        n = fitting(room // 2, lambda n: len(encode(text(n) + answer)) <= room)
        if n < 0:
            raise too_short("passkey", room, len(encode(text(0) + answer)))
        whole, prompt = encode(text(n) + answer), encode(text(n))
        shared = next((i for i, pair in enumerate(zip(whole, prompt, strict=False)) if pair[0] != pair[1]), len(prompt))
        return Item(text(n), answer, whole[:shared], whole[shared:])
