"""How far an evaluation is: over all its rows, in tokens, and the time left by what each row costs."""

import time
from collections.abc import Collection

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.estimate import RowEstimate
from alibi_cli.evaluation.results import RowKey
from alibi_cli.progress import Progress, Watch
from alibi_cli.time_left import Clock


class WholeRun:
    """rows: all that are to come."""

    def __init__(self, rows: Collection[RowEstimate], watch: Watch | None):
        self.rows, self.watch, self.clock = {row.key: row for row in rows}, watch, Clock()
        self.tokens = sum(row.tokens for row in rows)
        self.operations = sum(row.operations for row in rows)
        self.done: list[RowEstimate] = []
        self.row: RowEstimate | None = None
        self.began = time.monotonic()

    def loading(self, name: str) -> None:
        self._tell(f"Loading {name}", 0.0)

    def begin(self, key: RowKey) -> None:
        """A row that is computed now."""
        self.row, self.began = self.rows[key], time.monotonic()
        self._tell(self._what(self.row), 0.0)

    def windows(self, done: int) -> None:
        """So many windows of the row are done."""
        if self.row is not None:
            self._tell(self._what(self.row), min(1.0, done / max(1, self.row.windows)))

    def end(self) -> None:
        if self.row is not None:
            self.done.append(self.row)
            self.row = None

    def _what(self, row: RowEstimate) -> str:
        arm = "" if row.arm == FULL else f":{row.arm}"
        return f"{row.model}{arm} at {row.length}"

    def _tell(self, what: str, share: float) -> None:
        if self.watch is None:
            return
        rows = [(row, 1.0) for row in self.done] + ([(self.row, share)] if self.row is not None else [])
        tokens = sum(row.tokens * part for row, part in rows)
        operations = sum(row.operations * part for row, part in rows)
        begun = self.row is not None or self.done  # what was loaded before says nothing of the pace
        left = self.clock.seconds_left("", operations, self.operations) if begun else None
        seconds = time.monotonic() - self.began
        rate = self.row.tokens * share / seconds if self.row is not None and share and seconds > 0 else None
        self.watch(Progress(what, tokens, self.tokens, "tokens", per_second=rate, seconds_left=left))
