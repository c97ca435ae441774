"""What every case must do: end in a result or in one line that says what is wrong, soon, and leave nothing on the disk."""

import contextlib
import copy
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import typer
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from alibi_cli import AlibiError
from tests.fuzzing import THOROUGH, cases, ran

LIMIT_S = 5
GROWTH = 1.05  # of resident memory
REPLAYED = 50  # cases


def bounded(sample: int, thorough: int) -> settings:
    """Hypothesis' settings: the same few cases in every `make test`, new and many ones in `make fuzz`."""
    return settings(
        max_examples=cases(sample, thorough),
        derandomize=not THOROUGH,
        database=None,
        deadline=None,  # LIMIT_S is kept by an alarm, which also ends what never ends
        suppress_health_check=list(HealthCheck),
    )


class Hang(BaseException):
    """Not an Exception, so that nothing catches it on its way."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"longer than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Laboratory:
    """A folder in which cases are tried. expected: what the results of `r.json` must be. recent: the last cases of a test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.expected: dict[str, Any] = {}
        self.recent: deque[Callable[[], None]] = deque(maxlen=REPLAYED)

    def tries(self, attempt: Callable[..., None], *arguments: Any) -> None:
        self.recent.append(lambda: attempt(self, *arguments))
        self.recent[-1]()

    def listing(self) -> set[str]:
        return {str(path) for path in self.folder.rglob("*")}

    def survives(self, name: str, work: Callable[[], Any]) -> Any:
        """Runs `work`; returns its result, or None after a message."""
        before = self.listing()
        try:
            with alarm():
                result = work()
            ran[f"fuzz: {name}, accepted"] += 1
            return result
        except AlibiError as error:
            assert error.exit_code in (1, 2) and len((error.hint or "").splitlines()) <= 1
            assert error.message.strip() and error.message.count("\n") <= error.message.count("\\n") + 1
        except typer.BadParameter as error:
            assert error.message.strip()
        finally:
            ran[f"fuzz: {name}"] += 1
            shutil.rmtree(self.folder / "out", ignore_errors=True)  # of a success
            left = self.listing() - before
            assert not left, left
        return None

    def check_memory(self) -> None:
        """Replays the last cases again and again: Hypothesis, which remembers all that it tried, has no part in that."""
        sizes = []
        for _ in range(cases(3, 20)):
            for case in self.recent:
                case()
            sizes.append(psutil.Process().memory_info().rss)
        self.recent.clear()
        assert sizes[-1] <= sizes[len(sizes) // 4] * GROWTH, sizes


NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**18, 0.0, -0.5, 1e308, float("nan"), float("inf")]),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=12))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def paths_of(content: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in a JSON value."""
    yield here
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_of(value, (*here, key))


@st.composite
def changed(draw: Any, content: Any, values: st.SearchStrategy[Any] = JSON) -> Any:
    """`content` with one to three of its parts taken away, put elsewhere, or in their place something else."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = (None, *draw(st.sampled_from(list(paths_of(content)))))
        if last is None:
            return draw(values)
        holder = content
        for key in way[1:]:
            holder = holder[key]
        how = draw(st.sampled_from(["other", "other", "gone", "twice"]))
        if how == "other":
            holder[last] = draw(values)
        elif how == "gone":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = copy.deepcopy(holder[last])
        else:
            holder.append(copy.deepcopy(holder[last]))
    return content


@st.composite
def flipped(draw: Any, raw: bytes, within: int | None = None) -> bytes:
    """`raw` with some bytes changed, cut off, put in, or doubled."""
    content, within = bytearray(raw), min(within or len(raw), len(raw))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(within, len(content)) - 1)))
        how = draw(st.sampled_from(["bit", "byte", "cut", "insert", "double"]))
        if how == "bit" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[at : at + draw(st.integers(1, 1000))]
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 50))]
    return bytes(content)
