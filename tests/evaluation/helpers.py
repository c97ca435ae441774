"""Evaluations without the command line."""

from collections.abc import Callable
from typing import Any

import alibi_cli
from alibi_cli.evaluation.results import Results, RowKey
from alibi_cli.evaluation.statistics import Scored
from alibi_cli.progress import Progress
from alibi_cli.text.documents import Text
from tests.models import OLD_MAX

LENGTHS = (12, OLD_MAX, 2 * OLD_MAX)


def asked(models: list[Any], lengths: tuple[int, ...], text: Text, **settings: Any) -> dict[str, Any]:
    return {"models": models, "lengths": lengths, "text": text, **settings}


def evaluate(
    asked: dict[str, Any], update: Callable[[str, float, float], None] = lambda *_: None
) -> tuple[Results, dict[RowKey, Scored]]:
    """Results, and their record by row."""

    def watch(step: Progress) -> None:
        if not step.note:
            update(step.what, step.done, step.of)

    results = alibi_cli.evaluate(**asked, progress=watch)
    return results, results.record


def ask(task: str, models: list[Any], lengths: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    """Results of a task as its JSON has them."""
    return alibi_cli.evaluate_task(task, models, lengths=lengths, **settings).model_dump()


def without_times(results: dict) -> dict:
    """Without what may differ between two runs: the times."""
    for row in results["rows"]:
        for key in ("seconds", "tokens_per_second", "peak_bytes"):
            row.pop(key)
    results.pop("command")
    return results
