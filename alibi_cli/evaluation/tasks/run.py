"""Runs a task on models: items of every length and depth, one forward pass each, rows with intervals."""

import gc
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_cli.attention.in_models import attention_of_models
from alibi_cli.attention.registry import build_attention
from alibi_cli.checkpoint.partial import new_file
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation.models import ModelInfo, describe, device_type, load_model, load_tokenizer
from alibi_cli.evaluation.processes import ALONE, Processes
from alibi_cli.evaluation.run import PACKAGES
from alibi_cli.evaluation.scoring import OutOfMemory, Scorer
from alibi_cli.evaluation.statistics import wilson
from alibi_cli.evaluation.tasks.registry import Item, get_task, make_items
from alibi_cli.evaluation.tokens import TokenizedDocument, special_tokens
from alibi_cli.evaluation.windows import Window

SCHEMA_VERSION = 1
Update = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Request:
    """What to run. samples: items per length and depth; the task's own number if None. attention: a registered backend on which converted
    models run instead of their own attention. The rest as in `alibi eval --help`."""

    task: str
    models: list[str]
    lengths: tuple[int, ...]
    samples: int | None = None
    seed: int = 0
    attention: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    output: Path | None = None
    command: str = ""


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


def run_task(
    request: Request,
    update: Update = lambda *_: None,
    processes: Processes = ALONE,
    explain: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """{"schema_version", "command", "versions", "task", "models", "rows"}; --output is rewritten after every length of a model.

    A row has "model", "length", "depth" (null: all depths together), "status" ("ok", "out_of_range", "out_of_memory" or "non_finite"),
    "accuracy", "ci95" (Wilson), "correct", "samples", "chance", "tokens" (mean fed, special tokens included), "seconds" and "outcomes" (1
    or 0 per item). processes: as in `alibi_cli.evaluation.run.evaluate`.

    Raises:
        AlibiError: bad input, a model that fills in masked tokens, a length too short for a question,
            an attention that is not registered or cannot run a model.
    """
    task = get_task(request.task)
    samples = request.samples or task.samples
    if request.output is not None and processes.from_first(request.output.exists):
        raise UsageError(f"{request.output} exists.", "Choose another `output`.")
    infos = [describe(name, request.revision, request.trust_remote_code) for name in request.models]
    for info in infos:
        if info.masked:
            message = f"{info.name} fills in masked tokens; tasks are for models that predict the next token."
            raise UsageError(message)
        if request.attention is not None and not info.converted:
            message = f"{info.name} is not converted: `attention` is for models with ALiBi."
            raise UsageError(message)
    attention = (
        nullcontext()
        if request.attention is None
        else attention_of_models(build_attention({"name": request.attention}), explain)
    )
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": request.command,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "task": {
            "name": request.task,
            "lengths": list(request.lengths),
            "depths": [depth for depth in task.depths if depth is not None],
            "samples": samples,
            "seed": request.seed,
            "chance": task.chance,
            "attention": request.attention,
            "device": device_type(request.device),
            "dtype": request.dtype,
        },
        "models": [_facts(info) for info in infos],
        "rows": [],
    }
    questions = [_questions(info, request, samples, update) for info in infos]  # all of them before any model is loaded
    with attention:
        for info, made in zip(infos, questions, strict=True):
            for rows in _run(info, made, request, task.chance, update, processes):
                results["rows"] += rows
                with processes.agreeing():
                    if request.output is not None and processes.first:
                        save(request.output, results)
    return results


def _facts(info: ModelInfo) -> dict[str, Any]:
    kept = ("name", "model_type", "commit", "digest", "converted", "trained_length")
    return {key: getattr(info, key) for key in kept}


@dataclass(frozen=True)
class _Questions:
    """Items of one model's tokenizer: {length: {depth: items}}, and the special tokens before each."""

    prefix: list[int]
    items: dict[int, dict[float | None, list[Item]]]


def _questions(info: ModelInfo, request: Request, samples: int, update: Update) -> _Questions:
    task, tokenizer = get_task(request.task), load_tokenizer(info, request.trust_remote_code)
    prefix, _ = special_tokens(tokenizer)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    found: dict[int, dict[float | None, list[Item]]] = {}
    for index, length in enumerate(request.lengths):
        room = length - len(prefix)
        found[length] = {}
        for number, depth in enumerate(task.depths):
            done = index + number / len(task.depths)
            update(f"Writing {request.task} for {info.name}", done, len(request.lengths))
            found[length][depth] = make_items(task, request.task, encode, room, depth, samples, request.seed)
    return _Questions(prefix, found)


def _run(
    info: ModelInfo, made: _Questions, request: Request, chance: float, update: Update, processes: Processes
) -> Iterator[list[dict[str, Any]]]:
    answers = None
    for length, by_depth in made.items.items():
        if info.hard_limit is not None and length > info.hard_limit:
            yield _rows(info.name, length, by_depth, "out_of_range", {}, chance, 0.0, len(made.prefix))
            continue
        if answers is None:
            update(f"Loading {info.name}", 0, 1)
            with processes.agreeing():
                model = load_model(info, processes.device(request.device), request.dtype, request.trust_remote_code)
            _check_vocabulary(info.name, made, model.get_input_embeddings().num_embeddings)
            answers = Answers(model, made.prefix, [], None, request.batch_size, processes=processes)
        total, done, status, started = sum(map(len, by_depth.values())), 0, "ok", time.monotonic()

        def on_item(n: int, length: int = length, total: int = total) -> None:
            nonlocal done
            done += n
            update(f"{info.name} at {length}", min(done, total), total)

        outcomes: dict[float | None, list[float]] = {}
        try:
            for depth, items in by_depth.items():
                outcomes[depth] = answers.answers(items, on_item)
        except OutOfMemory:
            status, outcomes = "out_of_memory", {}
        if any(math.isnan(outcome) for values in outcomes.values() for outcome in values):
            status, outcomes = "non_finite", {}
        seconds = time.monotonic() - started
        yield _rows(info.name, length, by_depth, status, outcomes, chance, seconds, len(made.prefix))
    del answers
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
) -> list[dict[str, Any]]:
    """The row of a length, and one more for every depth if there are several."""
    parts: list[tuple[float | None, list[float | None]]] = [(None, list(by_depth))]
    parts += [(depth, [depth]) for depth in by_depth if depth is not None]
    rows = []
    for depth, members in parts:
        items = [item for member in members for item in by_depth[member]]
        right = [int(outcome) for member in members for outcome in outcomes.get(member, [])]
        rows.append(
            {
                "model": model,
                "length": length,
                "depth": depth,
                "status": status,
                "accuracy": sum(right) / len(right) if right else None,
                "ci95": wilson(sum(right), len(right)) if right else None,
                "correct": sum(right) if right else None,
                "samples": len(right),
                "chance": chance,
                # The last token of the target is read, never fed.
                "tokens": sum(prefix + len(item.prompt) + len(item.target) - 1 for item in items) / len(items),
                "seconds": seconds if depth is None else None,
                "outcomes": right,
            }
        )
    return rows


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes by way of a temporary name.

    Raises:
        AlibiError: the file cannot be written.
    """
    try:
        with new_file(path) as temporary:
            temporary.write_text(
                json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
            )
    except OSError as error:
        raise AlibiError(f"Cannot write {path}: {error.strerror}.") from None
