"""The verb `evaluate`: models at lengths, row by row."""

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation import results_file
from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.arms import arm_of, parse_arm
from alibi_cli.evaluation.contrasts import contrasts
from alibi_cli.evaluation.engine_scorer import EngineScorer
from alibi_cli.evaluation.estimate import announce, rows_to_come
from alibi_cli.evaluation.jobs import Job, Wanted, rows_of
from alibi_cli.evaluation.processes import Processes, launched
from alibi_cli.evaluation.request import asked, jobs_of, text_of
from alibi_cli.evaluation.results import ProtocolFacts, Results, Row, RowKey, TextFacts, ok_row
from alibi_cli.evaluation.row_record import first_non_finite, recorded
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.evaluation.statistics import SEED, Scored
from alibi_cli.evaluation.tables import labels_of, named
from alibi_cli.evaluation.trackers import check_trackers, track
from alibi_cli.evaluation.whole_run import WholeRun
from alibi_cli.files.versions import versions
from alibi_cli.models.language_model import evaluating
from alibi_cli.models.loading import device_type, load_model
from alibi_cli.models.plugins import load_plugins
from alibi_cli.progress import Watch, notes
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.measuring import EvaluateSettings
from alibi_cli.text.documents import Text, tell


@takes_settings(EvaluateSettings)
def evaluate(
    models: Any,
    *,
    text: Any = None,
    preset: str | None = None,
    progress: Watch | None = None,
    **settings: Any,
) -> Results:
    """Perplexity of models at every length on the same tokens, with intervals and paired differences.

    Processes that `torchrun` or `accelerate launch` started together share the work; all return the same, and the first one writes.

    Args:
        models: one or several of: a folder, a Hub name, a model in memory, a pair of one and its tokenizer. A model in memory is computed
            where it is and in its own type.
        text: what is scored: strings, (name, string) pairs, or paths of files; by default the dataset, which is the embedded text.
        preset: settings of presets/NAME.yaml, in place of those that are not given.
        progress: is called with each `Progress`.
        settings: see `EvaluateSettings`.

    Raises:
        AlibiError: bad input, or an earlier results file that does not belong to these settings.
    """
    chosen, own = asked(models, text, preset, settings)
    return run_evaluate(chosen, progress, own)


def run_evaluate(settings: EvaluateSettings, progress: Watch | None = None, text: Text | None = None) -> Results:
    """`evaluate`, by settings. text: instead of the one that they name."""
    load_plugins(settings.plugin, notes(progress))
    check_trackers(settings.report_to)
    with launched(settings.output) as processes:
        scored = text or processes.from_first(lambda: text_of(settings))
        tell(scored.normalised, notes(progress))
        results = _evaluate(settings, scored, progress, processes)
        with processes.agreeing():
            if settings.report_to and processes.first:
                _track(settings, results)
    if (few := results.few_documents) is not None:
        notes(progress)(
            f"Only {few} document{'s were' if few != 1 else ' was'} scored: the intervals are rough. More text would narrow them."
        )
    return results


def _track(settings: EvaluateSettings, results: Results) -> None:
    text, protocol = results.text, results.protocol
    facts = {"command": results.command, "protocol": protocol.name, "text": text.name, "text sha256": text.sha256}
    labels = labels_of(results)
    figures = [
        (row.length, f"{named(labels, row.model, row.arm)}/{name}", value)
        for row in results.rows
        for name, value in (("perplexity", row.perplexity), ("nll", row.nll), ("bits_per_byte", row.bits_per_byte))
        if value is not None
    ]
    track(settings.report_to, settings.output, facts, figures)


def _evaluate(settings: EvaluateSettings, text: Text, watch: Watch | None, processes: Processes) -> Results:
    """Runs the rows that are missing, and writes after each."""
    jobs, baseline, against = jobs_of(settings, text, processes)
    first = jobs[0].protocol
    # Where whole segments are scored, the longest length decides which tokens those are.
    segments = first.name == "fixed-target" or settings.max_segments is not None
    results = Results(
        command=settings.command,
        versions=versions("tokenizers"),
        protocol=ProtocolFacts(
            name=first.name,
            targets=first.targets,
            stride=first.stride,
            longest=max(first.lengths) if segments else None,
            masked=first.masked,
            max_segments=settings.max_segments,
            segments_seed=None if settings.max_segments is None else SEED,
            device=device_type(settings.device),
            dtype=settings.dtype,
            seed=SEED,
        ),
        text=TextFacts.model_validate(text.fingerprint()),
        models=[job.facts for job in jobs],
    )
    results.document_names = [name for name, _ in text.documents]
    names = [job.info.name for job in jobs]
    if (earlier := processes.from_first(lambda: _earlier(settings, results))) is not None:
        results.rows, results.contrasts = earlier.rows, earlier.contrasts
        results.record.update(earlier.record)
        results.models += [model for model in earlier.models if model.name not in names]
    finished = {row.key for row in results.rows if row.status in ("ok", "out_of_range")}
    results.rows = [row for row in results.rows if row.key in finished]
    coming = rows_to_come(jobs, settings, finished)
    announce(coming, jobs, settings, processes.count, notes(watch))
    whole = WholeRun(coming, watch)
    for job in jobs:
        wanted = [
            row for row in rows_of(job, settings.lengths) if RowKey(job.info.name, row.arm, row.length) not in finished
        ]
        for row, scored in _run(job, wanted, settings, whole, processes):
            results.rows.append(row)
            if scored is not None:
                _check_tokens(scored, results, job.info.name)
                results.record[row.key] = scored
            row.sha256 = results_file.digest(row, scored)
            _order(results, names)
            results.contrasts = contrasts(results, baseline, against)
            _save(settings.output, results, processes)
    results.contrasts = contrasts(results, baseline, against)
    _save(settings.output, results, processes)
    return results


def _earlier(settings: EvaluateSettings, results: Results) -> Results | None:
    """What the output holds already."""
    if settings.output is None or not settings.output.exists():
        return None
    try:
        old = results_file.load_results(settings.output, incomplete=True)
    except UsageError as error:
        raise UsageError(error.message, "Delete the file, or choose another `output`.") from None
    results_file.check_same_run(old, results, settings.output)
    old.contrasts = []  # their verdicts depend on what stands beside them
    return old


def _save(output: Path | None, results: Results, processes: Processes) -> None:
    with processes.agreeing():
        if output is not None and processes.first:
            results_file.save(output, results)


def _check_tokens(scored: Scored, results: Results, model: str) -> None:
    """Every row of a model scores the same tokens; a row that does not would be a number that cannot be compared."""
    for key, other in results.record.items():
        if key.model == model and not scored.same_tokens(other):
            raise AlibiError(f"{model}: two lengths scored different tokens. This is a bug; please report it.")


def _run(
    job: Job, wanted: list[Wanted], settings: EvaluateSettings, whole: WholeRun, processes: Processes
) -> Iterator[tuple[Row, Scored | None]]:
    info = job.info
    model: Any = None
    scorer: Scorer | EngineScorer | None = None
    with ExitStack() as held:  # a model in memory is left in the mode in which it was
        for asked_for in wanted:
            name, length, (computed, fed) = asked_for.arm, asked_for.length, asked_for.computed
            trained, what_it_does = info.trained_length or length, None
            if computed != FULL:
                what_it_does = parse_arm(name).settings(trained, length)
            if not asked_for.possible:
                yield Row(model=info.name, arm=name, length=length, status="out_of_range", fed_length=fed), None
                continue
            if (computed, fed) not in job.cache:
                if scorer is None and info.engine is not None:
                    scorer = _engine_scorer(job, settings, processes)
                elif scorer is None:
                    whole.loading(info.name)
                    with processes.agreeing():
                        model = load_model(
                            info, processes.device(settings.device), settings.dtype, settings.trust_remote_code
                        )
                    _check_vocabulary(job, model.get_input_embeddings().num_embeddings)
                    held.enter_context(evaluating(model))
                    scorer = Scorer(
                        model, job.prefix, job.suffix, job.mask_token, settings.batch_size, processes=processes
                    )
                whole.begin(RowKey(info.name, name, length))
                with arm_of(model, computed, trained_length=trained, length=length):
                    job.cache[computed, fed] = _score(job, scorer, fed, whole)
                whole.end()
            row, scored = job.cache[computed, fed]
            yield row.model_copy(update={"arm": name, "length": length, "arm_settings": what_it_does}), scored
    del model, scorer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _engine_scorer(job: Job, settings: EvaluateSettings, processes: Processes) -> EngineScorer:
    """
    Raises:
        UsageError: several processes, or a type that the engine has not.
    """
    if processes.count > 1:
        raise UsageError(f"{job.info.name} is run by llama.cpp, which does not share an evaluation.")
    return EngineScorer(job.info, job.prefix, settings.dtype)


def _check_vocabulary(job: Job, size: int) -> None:
    largest = max(int(document.ids.max()) for document in job.documents if len(document.ids))
    if largest >= size:
        raise AlibiError(f"The tokenizer of {job.info.name} makes token {largest}; its model knows {size} tokens.")


def _score(job: Job, scorer: Scorer | EngineScorer, fed: int, whole: WholeRun) -> tuple[Row, Scored | None]:
    name = job.info.name
    windows = job.protocol.windows(job.documents, fed)
    done = 0

    def on_window(n: int) -> None:
        nonlocal done
        done += n
        whole.windows(done)

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
    scored = recorded(job, windows, scores)
    row = ok_row(name, FULL, fed, fed, scored, seconds, fed_tokens, _peak_bytes())
    if row.status == "non_finite":
        row.first_non_finite = first_non_finite(job, scored)
        return row, None
    return row, scored


def _gpus() -> range:
    """The GPUs that this process uses or could use; none if it has used none."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _peak_bytes() -> int:
    if gpus := _gpus():
        return sum(torch.cuda.max_memory_allocated(device) for device in gpus)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _order(results: Results, models: list[str]) -> None:
    def place(row: Row) -> tuple[int, int, bool, tuple[int, int]]:
        model = models.index(row.model) if row.model in models else len(models)
        return model, row.length, row.arm != FULL, (0, 0) if row.arm == FULL else parse_arm(row.arm).order

    results.rows.sort(key=place)
