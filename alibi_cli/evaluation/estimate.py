"""The verb `estimate`: what an evaluation is going to take, row by row, before a weight is loaded.

models/pace.py has how seconds follow. While an evaluation runs, its own pace takes the place of this.
"""

from collections.abc import Collection
from typing import Any, Literal

import torch
from pydantic import BaseModel

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.jobs import Job, rows_of
from alibi_cli.evaluation.processes import ALONE
from alibi_cli.evaluation.request import asked, jobs_of, text_of
from alibi_cli.evaluation.results import RowKey
from alibi_cli.evaluation.scoring import budget_of
from alibi_cli.evaluation.table_formats import as_csv, latex, markdown
from alibi_cli.evaluation.tables import Table, named
from alibi_cli.models.body_and_head import LOGITS_PER_CHUNK
from alibi_cli.models.cost import Cost, cost_of
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.models.loading import device_type, first_device, resolved_dtype
from alibi_cli.models.machine import free_memory, speed
from alibi_cli.models.pace import QUICK, SHARE, WORTH_A_HINT, WORTH_A_LINE, seconds_of
from alibi_cli.models.plugins import load_plugins
from alibi_cli.names import short_names
from alibi_cli.progress import Say, Watch, notes
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.measuring import EvaluateSettings, OnModels
from alibi_cli.text.documents import Text, tell
from alibi_cli.time_left import duration


class RowEstimate(BaseModel):
    """A row of the evaluation. windows: forward passes of one window. tokens: fed, special ones included. operations: multiplications and
    additions. peak_bytes: of memory. seconds: of scoring, null if it was not asked for. same_as: the arm and length whose figures this row
    takes, null if it is computed. fits: false if more memory is needed than is free."""

    model: str
    arm: str
    length: int
    windows: int
    tokens: int
    tokens_scored: int
    operations: float
    peak_bytes: int
    seconds: float | None = None
    same_as: str | None = None
    fits: bool = True

    @property
    def key(self) -> RowKey:
        return RowKey(self.model, self.arm, self.length)


class Estimate(BaseModel):
    """The JSON of `alibi eval --dry-run`. seconds: of scoring, without loading. operations_per_second: of matrix products of the widest
    model, as measured. share: of that speed, which the estimate assumes. free_bytes: of memory, null where that cannot be told."""

    device: str
    share: float = SHARE
    operations_per_second: float
    free_bytes: int | None
    tokens: int
    seconds: float
    peak_bytes: int
    rows: list[RowEstimate]

    def to_text(self, form: Literal["markdown", "latex", "csv"]) -> str:
        """The table for a document, or the rows as CSV with full names and figures."""
        if form == "csv":
            return as_csv(list(RowEstimate.model_fields), [row.model_dump() for row in self.rows])
        table = estimate_table(self)
        return latex(table, "estimate") if form == "latex" else markdown(table)


@takes_settings(EvaluateSettings)
def estimate(
    models: Any, *, text: Any = None, preset: str | None = None, progress: Watch | None = None, **settings: Any
) -> Estimate:
    """What `evaluate` would take: tokens, passes, memory and time of every row. Nothing is scored and no weight is loaded.

    Args:
        models, text, preset, progress: as for `evaluate`.
        settings: see `EvaluateSettings`.

    Raises:
        AlibiError: as `evaluate`.
    """
    chosen, own = asked(models, text, preset, settings, dry=True)
    return run_estimate(chosen, progress, own)


def run_estimate(settings: EvaluateSettings, progress: Watch | None = None, text: Text | None = None) -> Estimate:
    """`estimate`, by settings."""
    load_plugins(settings.plugin, notes(progress))
    text = text or text_of(settings)
    tell(text.normalised, notes(progress))
    jobs, _, _ = jobs_of(settings, text, ALONE)
    return _timed(rows_to_come(jobs, settings), jobs, settings)


def rows_to_come(jobs: list[Job], settings: EvaluateSettings, finished: Collection[RowKey] = ()) -> list[RowEstimate]:
    """The rows that an evaluation has still to do, without seconds."""
    found = []
    for job in jobs:
        cost, computed = cost_of(job.info, settings.device, settings.dtype), set()
        for row in rows_of(job, settings.lengths):
            key = RowKey(job.info.name, row.arm, row.length)
            if key in finished or not row.possible:
                continue
            again = row.computed in computed
            computed.add(row.computed)
            arm, fed = row.computed
            same = (f"{fed}" if arm == FULL else f"{arm} at {fed}") if again else None
            found.append(_row(job, cost, key, fed, settings, same))
    return found


def _row(job: Job, cost: Cost, key: RowKey, fed: int, settings: EvaluateSettings, same_as: str | None) -> RowEstimate:
    facts: dict[str, Any] = {"model": key.model, "arm": key.arm, "length": key.length}
    if same_as is not None:
        nothing: dict[str, Any] = {
            "windows": 0,
            "tokens": 0,
            "tokens_scored": 0,
            "operations": 0.0,
            "peak_bytes": cost.weight_bytes,
        }
        return RowEstimate(**facts, **nothing, same_as=same_as)
    windows = job.protocol.windows(job.documents, fed)
    special = len(job.prefix) + (len(job.suffix) if job.protocol.masked else 0)
    sizes = [(window.end - window.begin + special, len(window.targets)) for window in windows]
    longest, scored = max(size for size, _ in sizes), sum(n for _, n in sizes)
    at_once = settings.batch_size or max(1, budget_of(device_type(settings.device)) // longest)
    logits = min(LOGITS_PER_CHUNK, max(n for _, n in sizes) * at_once * cost.head // max(1, cost.width))
    return RowEstimate(
        **facts,
        windows=len(windows),
        tokens=sum(size for size, _ in sizes),
        tokens_scored=scored,
        operations=sum(cost.operations(size, n) for size, n in sizes),
        peak_bytes=cost.peak_bytes(longest, min(at_once, len(windows)), logits),
    )


def rows_of_items(info: ModelInfo, settings: OnModels, items: dict[int, int]) -> list[RowEstimate]:
    """Of a task: {length: number of items}, each of them a window of its own."""
    cost = cost_of(info, settings.device, settings.dtype)
    return [
        RowEstimate(
            model=info.name,
            arm=FULL,
            length=length,
            windows=n,
            tokens=n * length,
            tokens_scored=n,
            operations=n * cost.operations(length, 1),
            peak_bytes=cost.weight_bytes,
        )
        for length, n in items.items()
        if info.hard_limit is None or length <= info.hard_limit
    ]


def _timed(rows: list[RowEstimate], jobs: list[Job], settings: EvaluateSettings, processes: int = 1) -> Estimate:
    """The rows with seconds, after a measurement that takes a fraction of one."""
    costs = {job.info.name: cost_of(job.info, settings.device, settings.dtype) for job in jobs}
    device, free = device_type(settings.device), free_memory(settings.device)
    batch = budget_of(device)
    measured = {
        job.info.name: speed(
            first_device(settings.device), _type(job, settings), batch, max(32, costs[job.info.name].width)
        )
        for job in jobs
    }
    for row in rows:
        passes = min(row.windows, -(-row.tokens // batch))
        seconds = seconds_of(row.operations, passes, costs[row.model].layers, measured[row.model])
        row.seconds = seconds / min(processes, max(1, passes))
        row.fits = free is None or row.peak_bytes <= free
    return Estimate(
        device=device,
        operations_per_second=max(measured.values()),
        free_bytes=free,
        tokens=sum(row.tokens for row in rows),
        seconds=sum(row.seconds or 0.0 for row in rows),
        peak_bytes=max((row.peak_bytes for row in rows), default=0),
        rows=rows,
    )


def _type(job: Job, settings: EvaluateSettings) -> torch.dtype:
    found = getattr(torch, resolved_dtype(job.info, settings.device, settings.dtype), None)
    return found if isinstance(found, torch.dtype) else torch.float32  # llama.cpp's own types


def announce(rows: list[RowEstimate], jobs: list[Job], settings: EvaluateSettings, processes: int, say: Say) -> None:
    """Says what a long evaluation is going to take, before it begins. processes: that share its batches."""
    if sum(row.operations for row in rows) < QUICK:
        return
    found = _timed(rows, jobs, settings, processes)
    if found.seconds < WORTH_A_LINE:
        return
    longest = max(rows, key=lambda row: row.seconds or 0.0)
    arm = "" if longest.arm == FULL else f":{longest.arm}"
    say(
        f"This will take about {duration(found.seconds)} on {found.device}; the longest row, {longest.model}{arm} at "
        f"{longest.length:,}, about {duration(longest.seconds or 0.0)}."
    )
    if found.seconds > WORTH_A_HINT:
        say("A dry run shows what each row takes. Fewer `lengths` take less, and so does `max_segments`.")


def estimate_table(estimate: Estimate) -> Table:
    """One row for each row that the evaluation is going to have."""
    columns = ["model", "length", "passes", "tokens", "memory", "time", "note"]
    total = f"about {duration(estimate.seconds)} on {estimate.device}, without loading"
    speed = f"{estimate.operations_per_second / 1e9:,.0f} billion operations a second"
    assumed = f"at {estimate.share:.0%} of the speed of its matrix products, {speed}"
    labels = short_names(row.model for row in estimate.rows)
    rows = [_estimate(row, labels) for row in estimate.rows]
    return Table(f"{estimate.tokens:,} tokens, {total}\n({assumed})", columns, rows, columns[1:-1])


def _estimate(row: RowEstimate, labels: dict[str, str]) -> list[str]:
    name, memory = named(labels, row.model, row.arm), f"{row.peak_bytes / 1e9:.2f} GB"
    if row.same_as is not None:
        return [name, str(row.length), *["–"] * 4, f"the figures at {row.same_as}"]
    note = "" if row.fits else "more memory than is free"
    figures = [f"{row.windows:,}", f"{row.tokens:,}", memory, duration(row.seconds or 0.0)]
    return [name, str(row.length), *figures, note]
