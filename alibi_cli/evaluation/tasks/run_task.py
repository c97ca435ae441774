"""The verb `evaluate_task`: items of every length and depth, one forward pass each, rows with intervals."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_cli.attention.in_models import attention_of_models
from alibi_cli.attention.registry import build_attention
from alibi_cli.errors import AlibiError, UsageError, explained
from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.estimate import rows_of_items
from alibi_cli.evaluation.processes import Processes, launched
from alibi_cli.evaluation.protocols import Window
from alibi_cli.evaluation.request import as_models, described
from alibi_cli.evaluation.results import RowKey
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.evaluation.statistics import wilson
from alibi_cli.evaluation.tasks.task import Item, get_task, make_items
from alibi_cli.evaluation.tasks.task_results import TaskFacts, TaskModel, TaskResults, TaskRow
from alibi_cli.evaluation.trackers import check_trackers, track
from alibi_cli.evaluation.whole_run import WholeRun
from alibi_cli.files.atomic import new_file
from alibi_cli.files.versions import versions
from alibi_cli.models.language_model import ModelInfo, evaluating
from alibi_cli.models.loading import device_type, load_model, load_tokenizer
from alibi_cli.models.plugins import load_plugins
from alibi_cli.names import short_names
from alibi_cli.progress import Update, Watch, notes, steps
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.measuring import TaskSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.tokens import TokenizedDocument, ids_of, special_tokens


class Answers(Scorer):
    """Reads 1 where the target is the most likely token, 0 where it is not, NaN where the logits are no numbers. choices: look among
    these only."""

    choices: list[int] | None = None

    def read(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.choices is None:
            best = logits.argmax(dim=-1)
        else:
            among = torch.tensor(self.choices, device=logits.device)
            best = among[logits[:, among].argmax(dim=-1)]
        right = (best == targets).to(logits.dtype)
        return right.masked_fill(logits.isnan().any(dim=-1), math.nan)

    def answers(self, items: list[Item], on_item: Callable[[int], None] = lambda n: None) -> list[float]:
        """For every item 1 if all tokens of its target are read right, else 0; NaN if a logit was.

        Raises:
            OutOfMemory: an item does not fit.
        """
        self.choices = items[0].choices
        documents = [TokenizedDocument("", np.asarray([*item.prompt, *item.target]), None) for item in items]
        windows = [
            Window(index, 0, len(document.ids), np.arange(len(item.prompt), len(document.ids)))
            for index, (item, document) in enumerate(zip(items, documents, strict=True))
        ]
        return [float(right.min()) for right in self.score(documents, windows, on_item)]  # numpy's min keeps NaN


@takes_settings(TaskSettings)
def evaluate_task(task: str, models: Any, *, progress: Watch | None = None, **settings: Any) -> TaskResults:
    """Accuracy of models on a generated long-range task at every length, with intervals.

    Args:
        task: "passkey", "listops", or one that a plug-in registers.
        models: as for `evaluate`.
        progress: is called with each `Progress`.
        settings: see `TaskSettings`.

    Raises:
        AlibiError: bad input, a model that fills in masked tokens, a length too short for a question, or an attention that is not
            registered or cannot run a model.
    """
    given = {"task": task, "models": as_models(models), **settings}
    return run_task(settings_of(TaskSettings, given), progress)


def run_task(settings: TaskSettings, progress: Watch | None = None) -> TaskResults:
    """`evaluate_task`, by settings."""
    load_plugins(settings.plugin, notes(progress))
    check_trackers(settings.report_to)
    with launched(settings.output) as processes:
        results = _run_task(settings, progress, processes)
        with processes.agreeing():
            if settings.report_to and processes.first:
                _track(settings, results)
    return results


def _track(settings: TaskSettings, results: TaskResults) -> None:
    labels = short_names(model.name for model in results.models)
    whole = [row for row in results.rows if row.depth is None and row.accuracy is not None]
    figures = [(row.length, f"{labels[row.model]}/accuracy", row.accuracy or 0.0) for row in whole]
    facts = {"command": results.command, "task": results.task.name, "seed": results.task.seed}
    track(settings.report_to, settings.output, facts, figures)


def _run_task(settings: TaskSettings, progress: Watch | None, processes: Processes) -> TaskResults:
    """The output is rewritten after every length of a model."""
    task = get_task(settings.task)
    samples = settings.samples or task.samples
    infos = described(settings, settings.models)
    for info in infos:
        if info.masked:
            raise UsageError(f"{info.name} fills in masked tokens; tasks are for models that predict the next token.")
        if settings.attention is not None and not info.converted:
            raise UsageError(f"{info.name} is not converted: `attention` is for models with ALiBi.")
    attention: AbstractContextManager[Callable[[Any], None]] = (
        nullcontext(lambda model: None)
        if settings.attention is None
        else attention_of_models(build_attention({"name": settings.attention}), notes(progress))
    )
    results = TaskResults(
        command=settings.command,
        versions=versions("tokenizers"),
        task=TaskFacts(
            name=settings.task,
            lengths=list(settings.lengths),
            depths=[depth for depth in task.depths if depth is not None],
            samples=samples,
            seed=settings.seed,
            chance=task.chance,
            attention=settings.attention,
            device=device_type(settings.device),
            dtype=settings.dtype,
        ),
        models=[TaskModel(**{name: getattr(info, name) for name in TaskModel.model_fields}) for info in infos],
    )
    questions = [
        _questions(info, settings, samples, steps(progress)) for info in infos
    ]  # all of them before any model is loaded
    counts = [
        {length: sum(map(len, by_depth.values())) for length, by_depth in made.items.items()} for made in questions
    ]
    coming = [row for info, count in zip(infos, counts, strict=True) for row in rows_of_items(info, settings, count)]
    whole = WholeRun(coming, progress)
    with attention as check_attention:
        for info, made in zip(infos, questions, strict=True):
            for rows in _run(info, made, settings, task.chance, whole, processes, check_attention):
                results.rows += rows
                with processes.agreeing():
                    if settings.output is not None and processes.first:
                        save(settings.output, results)
    return results


@dataclass(frozen=True)
class _Questions:
    """Items of one model's tokenizer: {length: {depth: items}}, and the special tokens before each."""

    prefix: list[int]
    items: dict[int, dict[float | None, list[Item]]]


def _questions(info: ModelInfo, settings: TaskSettings, samples: int, update: Update) -> _Questions:
    task, tokenizer = get_task(settings.task), load_tokenizer(info, settings.trust_remote_code)
    prefix, _ = special_tokens(tokenizer)

    def encode(text: str) -> list[int]:
        return ids_of(text, tokenizer)

    found: dict[int, dict[float | None, list[Item]]] = {}
    for index, length in enumerate(settings.lengths):
        room = length - len(prefix)
        found[length] = {}
        for number, depth in enumerate(task.depths):
            done = index + number / len(task.depths)
            update(f"Writing {settings.task} for {info.name}", done, len(settings.lengths))
            found[length][depth] = make_items(task, settings.task, encode, room, depth, samples, settings.seed)
    return _Questions(prefix, found)


def _run(
    info: ModelInfo,
    made: _Questions,
    settings: TaskSettings,
    chance: float,
    whole: WholeRun,
    processes: Processes,
    check_attention: Callable[[Any], None],
) -> Iterator[list[TaskRow]]:
    model = answers = None
    with ExitStack() as held:  # a model in memory is left in the mode in which it was
        for length, by_depth in made.items.items():
            if info.hard_limit is not None and length > info.hard_limit:
                yield _rows(info.name, length, by_depth, "out_of_range", {}, chance, 0.0, len(made.prefix))
                continue
            if answers is None:
                whole.loading(info.name)
                with processes.agreeing():
                    model = load_model(
                        info, processes.device(settings.device), settings.dtype, settings.trust_remote_code
                    )
                    check_attention(model)
                _check_vocabulary(info.name, made, model.get_input_embeddings().num_embeddings)
                held.enter_context(evaluating(model))
                answers = Answers(model, made.prefix, [], None, settings.batch_size, processes=processes)
            done, status, started = 0, "ok", time.monotonic()
            whole.begin(RowKey(info.name, FULL, length))

            def on_item(n: int) -> None:
                nonlocal done
                done += n
                whole.windows(done)

            outcomes: dict[float | None, list[float]] = {}
            try:
                for depth, items in by_depth.items():
                    outcomes[depth] = answers.answers(items, on_item)
            except OutOfMemory:
                status, outcomes = "out_of_memory", {}
            if any(math.isnan(outcome) for values in outcomes.values() for outcome in values):
                status, outcomes = "non_finite", {}
            seconds = time.monotonic() - started
            whole.end()
            yield _rows(info.name, length, by_depth, status, outcomes, chance, seconds, len(made.prefix))
    del model, answers
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_vocabulary(name: str, made: _Questions, size: int) -> None:
    items = [item for by_depth in made.items.values() for items in by_depth.values() for item in items]
    largest = max(max(*item.prompt, *item.target, *(item.choices or [0])) for item in items)
    if largest >= size:
        raise AlibiError(f"The tokenizer of {name} makes token {largest}; its model knows {size} tokens.")


def _rows(
    model: str,
    length: int,
    by_depth: dict[float | None, list[Item]],
    status: str,
    outcomes: dict[float | None, list[float]],
    chance: float,
    seconds: float,
    prefix: int,
) -> list[TaskRow]:
    """The row of a length, and one more for every depth if there are several."""
    parts: list[tuple[float | None, list[float | None]]] = [(None, list(by_depth))]
    parts += [(depth, [depth]) for depth in by_depth if depth is not None]
    rows = []
    for depth, members in parts:
        items = [item for member in members for item in by_depth[member]]
        right = [int(outcome) for member in members for outcome in outcomes.get(member, [])]
        rows.append(
            TaskRow(
                model=model,
                length=length,
                depth=depth,
                status=status,
                accuracy=sum(right) / len(right) if right else None,
                ci95=wilson(sum(right), len(right)) if right else None,
                correct=sum(right) if right else None,
                samples=len(right),
                chance=chance,
                # The last token of the target is read, never fed.
                tokens=sum(prefix + len(item.prompt) + len(item.target) - 1 for item in items) / len(items),
                seconds=seconds if depth is None else None,
                outcomes=right,
            )
        )
    return rows


def save(path: Path, results: TaskResults) -> None:
    """Writes by way of a temporary name.

    Raises:
        AlibiError: the file cannot be written.
    """
    with explained(f"Cannot write {path}"), new_file(path) as temporary:
        temporary.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
