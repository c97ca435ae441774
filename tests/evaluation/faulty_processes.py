"""Run by torchrun: evaluations in which the second of two processes fails, one after the other. The first one writes what became of them.

torchrun … tests/evaluation/faulty_processes.py FOLDER MODEL
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation import evaluate as run
from alibi_cli.evaluation.processes import Processes, launched
from alibi_cli.evaluation.results import Results
from alibi_cli.evaluation.scoring import Scorer
from alibi_cli.evaluation.tasks.run_task import evaluate_task
from alibi_cli.silence import silence_libraries
from alibi_cli.text.documents import Text

TEXT = Text("sample", [(f"d{i}", f"{i} is the number of this document, which goes on. " * 2) for i in range(6)])
LONG = 64
score_batch, load_model = Scorer._score_batch, run.load_model


def scored(model: str, output: Path | None = None, resume: bool = False) -> Results:
    settings = dict(protocol="non-overlapping", batch_size=1, output=output, resume=resume)
    return run.evaluate([model], lengths=(16, LONG), text=TEXT, **settings)


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. (injected)")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_long(fault: Callable[[], None]) -> Callable[..., Any]:
    """Scoring in which `fault` strikes at the longer length."""

    def scored(self, documents, windows):
        if windows[0].end - windows[0].begin > LONG // 2:
            fault()
        return score_batch(self, documents, windows)

    return scored


def not_a_number(self, documents, windows):
    return [score * np.nan for score in score_batch(self, documents, windows)]


def no_file(*_: Any) -> None:
    raise UsageError("The weights cannot be read.", hint="Mend the disk.")


def outcome(model: str) -> Any:
    try:
        results = scored(model)
    except AlibiError as error:
        return [error.message, error.hint, error.exit_code]
    return {str(row.length): row.status for row in results.rows if row.arm == "full"}


def outcomes(model: str) -> list[list[int]]:
    return [row.outcomes for row in evaluate_task("passkey", [model], lengths=(200,), samples=2, batch_size=1).rows]


def main(folder: Path, model: str, processes: Processes) -> None:
    found = {"none": outcome(model)}
    faults: dict[str, tuple[Any, str, Any]] = {
        "memory": (Scorer, "_score_batch", at_long(no_memory)),
        "number": (Scorer, "_score_batch", not_a_number),
        "error": (run, "load_model", no_file),
    }
    for name, (where, attribute, fault) in faults.items():
        before = getattr(where, attribute)
        if not processes.first:
            setattr(where, attribute, fault)
        found[name] = outcome(model)
        setattr(where, attribute, before)
    everywhere = processes.gather({**found, "passkey": outcomes(model)})
    if processes.first:
        (folder / "found.json").write_text(json.dumps(everywhere))
    else:
        Scorer._score_batch = at_long(killed)  # type: ignore[method-assign]
    scored(model, folder / "killed.json")


if __name__ == "__main__":
    silence_libraries()
    with launched() as together:
        main(Path(sys.argv[1]), sys.argv[2], together)
