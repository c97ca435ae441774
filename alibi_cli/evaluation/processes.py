"""Processes that `torchrun` or `accelerate launch` started together, which share the batches of an evaluation.

All of them run the same program and hold the same results; they differ in which batches they score. Batches are made as if there were one
process and then dealt out, so that each of them gives the same bits wherever it is scored. The first process alone writes and prints.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.files.lock import exclusive
from alibi_cli.launcher import Place, place
from alibi_cli.models.loading import SPLIT, pick_device

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # one process may compute for long while another waits; one that dies is noticed at once


class Processes(Place):
    """What the processes do together."""

    @property
    def first(self) -> bool:
        return self.index == 0

    def device(self, name: str) -> str:
        """The device of this process where `name` is to be used: of several processes on GPUs, each takes its own.

        Raises:
            AlibiError: `name` asks for one model on several devices, of which every process would need its own.
        """
        if self.count > 1 and name == SPLIT:
            raise UsageError(f"`device={SPLIT}` spreads one model over all devices; it runs in one process.")
        if self.count > 1 and name in ("auto", "cuda") and pick_device(name) == "cuda":
            return f"cuda:{self.local_index}"
        return name

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The part of `items` that is this process's to do."""
        return items[self.index :: self.count]

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, in all processes."""
        found: list[Any] = [value]
        if self.count > 1:
            found *= self.count
            with _connected():
                distributed.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all processes; it is not called in the others."""
        with self.agreeing():
            made: list[Any] = [make() if self.first else None]
        if self.count > 1:
            with _connected():
                distributed.broadcast_object_list(made)
        return made[0]

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """If what is inside fails with an AlibiError in one process, it does in all."""
        failed = None
        try:
            yield
        except AlibiError as error:
            failed = error
        if (first := next(filter(None, self.gather(failed)), None)) is not None:
            raise first


ALONE = Processes()


@contextmanager
def launched(output: Path | None = None) -> Iterator[Processes]:
    """The processes that were started together with this one; without a launcher it is alone, and nothing is set up.

    output: a file that they are going to write.

    Raises:
        AlibiError: another run writes it.
    """
    with _launched() as processes, ExitStack() as held:
        with processes.agreeing():
            if output is not None and processes.first:
                held.enter_context(exclusive(output))
        yield processes


@contextmanager
def _launched() -> Iterator[Processes]:
    here = Processes(*astuple(place()))
    if here.count == 1 or distributed.is_initialized():  # by whoever calls this
        yield here
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)  # objects in memory are exchanged, no tensors on GPUs
    try:
        yield here
    finally:
        distributed.destroy_process_group()


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise AlibiError("Another process of this evaluation ended before its work was done.") from error
