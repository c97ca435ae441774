"""Evaluates models at lengths, row by row."""

import gc
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation import results as results_file
from alibi_cli.evaluation.arms import FULL, TRUNCATED, arm_of, parse_arm, split_arm
from alibi_cli.evaluation.contrasts import contrasts
from alibi_cli.evaluation.jobs import Job, make_jobs, rows_of
from alibi_cli.evaluation.models import describe, device_type, load_model
from alibi_cli.evaluation.processes import ALONE, Processes
from alibi_cli.evaluation.results import NonFinite, Results, Row, ok_row
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.evaluation.statistics import SEED, Scored
from alibi_cli.evaluation.text import Text
from alibi_cli.evaluation.windows import Window

if TYPE_CHECKING:
    from alibi_cli.exporting.measured import EngineScorer

Update = Callable[[str, float, float], None]
PACKAGES = ("alibi-cli", "torch", "transformers", "tokenizers")  # whose versions a results file records


@dataclass(frozen=True)
class Request:
    """What to evaluate. models: names; baseline: one of them that the others are compared with, or MODEL:ARM for one of its arms. arms:
    names of the arms of unconverted models; None for the truncated one of those that can have it. max_segments: score only so many
    segments of the longest length. The rest as in `alibi eval --help`."""

    models: list[str]
    lengths: tuple[int, ...]
    text: Text
    baseline: str | None = None
    arms: tuple[str, ...] | None = None
    protocol: str = "fixed-target"
    targets: int | None = None
    stride: int | None = None
    max_segments: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    output: Path | None = None
    resume: bool = False
    command: str = ""


def evaluate(
    request: Request, update: Update = lambda *_: None, processes: Processes = ALONE
) -> tuple[Results, dict[str, Scored]]:
    """Runs the rows that are missing, writes after each, and returns all results with their per-token record.

    processes: those that run this together. All return the same; the first one writes.

    Raises:
        AlibiError: bad input, or an earlier results file that does not belong to this request.
    """
    infos = [describe(name, request.revision, request.trust_remote_code) for name in request.models]
    if len({info.masked for info in infos}) > 1:
        raise AlibiError(
            "Models that fill in masked tokens and models that predict the next one cannot be scored together.",
            exit_code=EXIT_USAGE,
        )
    baseline, against = split_arm(request.baseline) if request.baseline is not None else (None, None)
    jobs = make_jobs(infos, request, processes)
    first = jobs[0].protocol
    # Where whole segments are scored, the longest length decides which tokens those are.
    segments = first.name == "fixed-target" or request.max_segments is not None
    results = Results(
        command=request.command,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        protocol={
            "name": first.name,
            "targets": first.targets,
            "stride": first.stride,
            "longest": max(first.lengths) if segments else None,
            "masked": first.masked,
            "max_segments": request.max_segments,
            "device": device_type(request.device),
            "dtype": request.dtype,
            "seed": SEED,
        },
        text=request.text.fingerprint(),
        models=[job.facts for job in jobs],
    )
    record: dict[str, Scored] = {}
    if (earlier := processes.from_first(lambda: _earlier(request, results))) is not None:
        old, record = earlier
        results.rows, results.contrasts = old.rows, old.contrasts
        results.models += [model for model in old.models if model["name"] not in request.models]
    finished = {row.key for row in results.rows if row.status in ("ok", "out_of_range")}
    results.rows = [row for row in results.rows if row.key in finished]
    for job in jobs:
        wanted = [
            (arm, length)
            for arm, length in rows_of(job, request.lengths)
            if f"{job.info.name}|{arm}|{length}" not in finished
        ]
        for row, scored in _run(job, wanted, request, update, processes):
            results.rows.append(row)
            if scored is not None:
                _check_tokens(scored, record, job.info.name)
                record[row.key] = scored
            row.sha256 = results_file.digest(row, scored)
            _order(results, request.models)
            results.contrasts = contrasts(results, record, baseline, against)
            _save(request.output, results, record, processes)
    results.contrasts = contrasts(results, record, baseline, against)
    _save(request.output, results, record, processes)
    return results, record


def _earlier(request: Request, results: Results) -> tuple[Results, dict[str, Scored]] | None:
    """What --output holds already."""
    if request.output is None or not request.output.exists():
        return None
    if not request.resume:
        raise AlibiError(
            f"{request.output} exists.",
            hint="Continue it with --resume, or choose another --output.",
            exit_code=EXIT_USAGE,
        )
    old, record = results_file.load(request.output)
    results_file.check_same_run(old, results, request.output)
    return old, record


def _save(output: Path | None, results: Results, record: dict[str, Scored], processes: Processes) -> None:
    with processes.agreeing():
        if output is not None and processes.first:
            results_file.save(output, results, record)


def _check_tokens(scored: Scored, record: dict[str, Scored], model: str) -> None:
    """Every row of a model scores the same tokens; a row that does not would be a number that cannot be compared."""
    for key, other in record.items():
        if key.startswith(f"{model}|") and not scored.same_tokens(other):
            raise AlibiError(f"{model}: two lengths scored different tokens. This is a bug; please report it.")


def _run(
    job: Job, wanted: list[tuple[str, int]], request: Request, update: Update, processes: Processes
) -> Iterator[tuple[Row, Scored | None]]:
    info, model = job.info, None
    scorer: Scorer | EngineScorer | None = None
    for name, length in wanted:
        trained, settings = info.trained_length or length, None
        computed, fed = (FULL, trained) if name == TRUNCATED else (name, length)
        if computed != FULL:
            settings = parse_arm(name).settings(trained, length)
        if info.hard_limit is not None and fed > info.hard_limit:
            yield Row(model=info.name, arm=name, length=length, status="out_of_range", fed_length=fed), None
            continue
        if (computed, fed) not in job.cache:
            if scorer is None and info.engine is not None:
                scorer = _engine_scorer(job, request, processes)
            elif scorer is None:
                update(f"Loading {info.name}", 0, 1)
                with processes.agreeing():
                    model = load_model(info, processes.device(request.device), request.dtype, request.trust_remote_code)
                _check_vocabulary(job, model.get_input_embeddings().num_embeddings)
                scorer = Scorer(model, job.prefix, job.suffix, job.mask_token, request.batch_size, processes=processes)
            with arm_of(model, computed, trained_length=trained, length=length):
                job.cache[computed, fed] = _score(job, scorer, computed, fed, update)
        row, scored = job.cache[computed, fed]
        yield row.model_copy(update={"arm": name, "length": length, "arm_settings": settings}), scored
    del model, scorer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _engine_scorer(job: Job, request: Request, processes: Processes) -> "EngineScorer":
    """
    Raises:
        AlibiError: several processes, or a type that the engine has not.
    """
    from alibi_cli.exporting.measured import EngineScorer

    if processes.count > 1:
        raise AlibiError(
            f"{job.info.name} is run by llama.cpp, which does not share an evaluation.", exit_code=EXIT_USAGE
        )
    return EngineScorer(job.info, job.prefix, request.dtype)


def _check_vocabulary(job: Job, size: int) -> None:
    largest = max(int(document.ids.max()) for document in job.documents if len(document.ids))
    if largest >= size:
        raise AlibiError(f"The tokenizer of {job.info.name} makes token {largest}; its model knows {size} tokens.")


def _score(job: Job, scorer: "Scorer | EngineScorer", arm: str, fed: int, update: Update) -> tuple[Row, Scored | None]:
    name = job.info.name
    windows = job.protocol.windows(job.documents, fed)
    done = 0

    def on_window(n: int) -> None:
        nonlocal done
        done += n
        update(f"{name if arm == FULL else f'{name}:{arm}'} at {fed}", min(done, len(windows)), len(windows))

    for device in _gpus():
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    try:
        scores = scorer.score(job.documents, windows, on_window)
    except OutOfMemory:
        return Row(
            model=name, length=fed, status="out_of_memory", fed_length=fed, seconds=time.monotonic() - started
        ), None
    seconds = time.monotonic() - started
    fed_tokens = sum(window.end - window.begin + len(job.prefix) for window in windows)
    scored = _scored(job, windows, scores)
    row = ok_row(name, "full", fed, fed, scored, seconds, fed_tokens, _peak_bytes())
    if row.status == "non_finite":
        row.first_non_finite = _first_non_finite(job, scored)
        return row, None
    return row, scored


def _first_non_finite(job: Job, scored: Scored) -> NonFinite:
    first = int(np.flatnonzero(~np.isfinite(scored.nll))[0])
    document, position = job.documents[int(scored.document[first])], int(scored.position[first])
    token = int(document.ids[position])
    return NonFinite(document=document.name, position=position, token=token, text=job.decode([token]))


def _scored(job: Job, windows: list[Window], scores: list[np.ndarray]) -> Scored:
    """The record in document order, the same at every length whatever the order of the windows."""
    document = np.concatenate([np.full(len(window.targets), window.document) for window in windows])
    position = np.concatenate([window.targets for window in windows])
    context = np.concatenate([window.targets - window.begin for window in windows]) + len(job.prefix)
    n_bytes: int | None = 0
    for window in windows:
        part = job.documents[window.document].bytes_of(window.targets)
        n_bytes = None if part is None or n_bytes is None else n_bytes + int(part.sum())
    order = np.lexsort((position, document))
    document, position, context = (column[order].astype(np.int32) for column in (document, position, context))
    return Scored(np.concatenate(scores)[order].astype(np.float32), document, position, context, n_bytes)


def _gpus() -> range:
    """The GPUs that this process uses or could use; none if it has used none."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _peak_bytes() -> int:
    if gpus := _gpus():
        return sum(torch.cuda.max_memory_allocated(device) for device in gpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _order(results: Results, models: list[str]) -> None:
    def place(row: Row) -> tuple[int, int, bool, tuple[int, int]]:
        model = models.index(row.model) if row.model in models else len(models)
        return model, row.length, row.arm != FULL, (0, 0) if row.arm == FULL else parse_arm(row.arm).order

    results.rows.sort(key=place)
