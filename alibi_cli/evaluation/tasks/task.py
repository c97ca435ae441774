"""Tasks by name. Those that come with this package are named in settings/measuring.py, each after the file in which it is."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, TypeVar

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.settings.measuring import BUILT_IN, TASKS, unknown_task

TaskClass = TypeVar("TaskClass", bound=type["Task"])
Encode = Callable[[str], list[int]]  # text -> tokens without special ones


@dataclass(frozen=True)
class Item:
    """One question. text, answer: what is asked and what should follow, for people. prompt: its tokens, without special ones. target: the
    tokens that must follow. choices: the tokens among which the answer is looked for; None is the whole vocabulary."""

    text: str
    answer: str
    prompt: list[int]
    target: list[int]
    choices: list[int] | None = None


class Task:
    """Base class of tasks. chance: accuracy of guessing. samples: items per length and depth if not told. depths: places of what is to be
    found, 0 for the start of the prompt, 1 for its end; (None,) if the task has no such place."""

    chance: ClassVar[float]
    samples: ClassVar[int]
    depths: ClassVar[tuple[float | None, ...]] = (None,)

    def item(self, encode: Encode, room: int, depth: float | None, index: int, rng: random.Random) -> Item:
        """The `index`-th item whose prompt and target together fill at most `room` tokens, and nearly fill them.

        Raises:
            AlibiError: the shortest question is longer than that, or the tokenizer cannot express the answers.
        """
        raise NotImplementedError


_registry: dict[str, type[Task]] = {}


def register_task(name: str) -> Callable[[TaskClass], TaskClass]:
    """Decorator: registers a subclass of Task under `name`.

    Raises:
        ValueError: the name is taken.
        TypeError: not a subclass of Task.
    """

    def decorator(task: TaskClass) -> TaskClass:
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise TypeError(f"{task!r} must be a subclass of Task to be registered.")
        if name in _registry:
            places = [f"{cls.__module__}.{cls.__qualname__}" for cls in (_registry[name], task)]
            raise ValueError(f"The task {name!r} is registered already: {places[0]}; refused: {places[1]}.")
        _registry[name] = task
        TASKS.add(name)
        return task

    return decorator


def task_names() -> list[str]:
    for name in BUILT_IN:
        import_module(f"{__package__}.{name}")
    return sorted(_registry)


def get_task(name: str) -> Task:
    """
    Raises:
        AlibiError: no such task.
    """
    if name not in task_names():
        raise unknown_task(name)
    return _registry[name]()


def make_items(task: Task, name: str, encode: Encode, room: int, depth: float | None, n: int, seed: int) -> list[Item]:
    """n items, the same for every model whose tokenizer cuts text alike.

    Raises:
        AlibiError: as `Task.item`; also a task that made an item that is too long.
    """
    items = []
    for index in range(n):
        rng = random.Random(f"{seed} {name} {room} {depth} {index}")
        item = task.item(encode, room, depth, index, rng)
        if len(item.prompt) + len(item.target) > room:
            raise AlibiError(f"The task {name!r} made an item longer than {room} tokens. This is a bug in the task.")
        items.append(item)
    return items


def too_short(name: str, room: int, needed: int) -> AlibiError:
    return UsageError(
        f"The shortest {name} question is {needed} tokens long with this tokenizer; {room} are too few.",
        "Give longer `lengths`.",
    )


def fitting(n: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to n that fits; -1 if not even 0 does. `fits` must not become true again once it is false."""
    low, high = -1, n
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
