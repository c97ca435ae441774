"""A training run and the folder beside its output that holds its text and its states until it is finished."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from alibi_cli.errors import AlibiError, UsageError, explained
from alibi_cli.files.strict_json import read_json, write_json
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.settings.on_disk import expanded
from alibi_cli.text.documents import DEFAULT, open_text
from alibi_cli.text.tokens import end_of_text
from alibi_cli.training.budget import Budget
from alibi_cli.training.data import Masking, Tokens, read_tokens, write_tokens
from alibi_cli.training.enough_text import enough, whole
from alibi_cli.training.trainer import last_state

# In what the command that continues a run may differ from the one that began it, and still ask for the same result.
ASKED_AGAIN = {"force", "resume", "command"}
REQUEST = "settings.json"  # shows that a work folder is ours, and what its states belong to


@dataclass(frozen=True)
class Job:
    """What is trained, by whom it is taught, on how much. teacher, masking: None without a teacher, and for causal models."""

    settings: TrainSettings
    info: ModelInfo
    teacher: ModelInfo | None
    budget: Budget
    masking: Masking | None
    warmup_steps: int

    @property
    def work(self) -> Path:
        """Where the states of the run are kept while it is not finished."""
        return work_of(self.settings.output)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, with special ones."""
        special = 0 if self.masking is None else len(self.masking.prefix) + len(self.masking.suffix)
        return max(stage.length for stage in self.budget.stages) + special

    @property
    def teacher_length(self) -> int | None:
        """Tokens that the teacher is fed of longer sequences; None if there is no teacher, or it is fed all of them."""
        trained = None if self.teacher is None else self.teacher.trained_length
        return None if trained is None or trained >= self.longest else trained

    @property
    def claimed(self) -> bool:
        return (self.work / REQUEST).is_file()

    def identity(self, processes: int) -> dict[str, Any]:
        """What a continuation must share."""
        digests = {"digest": self.info.digest, "teacher_digest": None if self.teacher is None else self.teacher.digest}
        return {
            **self.settings.fixed(),
            **digests,
            "output": str(self.settings.output.resolve()),
            "processes": processes,
        }

    def request(self, processes: int) -> str:
        """The sha256 of all settings and of `identity`: what was trained says by it which run it is of, and no paths."""
        asked = {**self.settings.fixed(free=ASKED_AGAIN), **self.identity(processes)}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def work_of(output: Path) -> Path:
    output = output.resolve()
    return output.with_name(output.name + ".training")


def kept(output: Path) -> str | None:
    """What a run that was stopped has left, and how to go on; None if no step had been saved."""
    state = last_state(work_of(output))
    return f"Step {state[1]['step']} is kept: `resume` continues from it." if state else None


def prepare(job: Job, tokenizer: Any, args: Any) -> Tokens:
    """Makes or checks the work folder; the tokens of the text, from there if an earlier run left them.

    Raises:
        AlibiError: the folder belongs to something else, or there is no text.
    """
    settings, work = job.settings, job.work
    if args.process_index == 0:
        _claim(job, job.identity(args.world_size))
    tokens = read_tokens(work)
    if tokens is None and args.process_index > 0:
        raise AlibiError("The first process could not prepare the text; its message says why.")
    if tokens is None:
        end = end_of_text(tokenizer, or_separator=True)
        if end is None:
            raise UsageError(f"The tokenizer of {job.info.name} has no end-of-text token.")
        needed, normalised = job.budget.tokens + job.budget.block + 1, list[str]()

        def read() -> tuple[str, Iterable[tuple[str, str]]]:
            return open_text(
                settings.dataset,
                settings.text,
                split_on=settings.split_on,
                column=settings.text_column,
                training=True,
                normalised=normalised,
            )

        if settings.dataset in (None, DEFAULT):
            files = [path for each in settings.text for path in expanded(each)]
            twice = read if all(path.is_file() for path in files) else _held(read)
            name, pieces, limit = enough(twice, needed, job.budget.block, settings.seed)
        else:  # of a stream, the first documents are taken
            name, documents = read()
            pieces, limit = whole(documents), needed
        with explained(f"Cannot write {work}"):
            write_tokens(work, name, pieces, tokenizer, end, limit, normalised)
        tokens = read_tokens(work)
    return cast(Tokens, tokens)


def _held(read: Callable[[], tuple[str, Iterable[tuple[str, str]]]]) -> Callable[[], tuple[str, list[tuple[str, str]]]]:
    """A pipe can be read once."""
    name, documents = read()
    found = name, list(documents)
    return lambda: found


def _claim(job: Job, identity: dict[str, Any]) -> None:
    """A work folder for this run: a new one, or that of the run which is to be continued."""
    work, settings = job.work, job.settings
    if work.exists() and not job.claimed and any(work.iterdir()):
        raise UsageError(f"{work} exists and holds no training.", hint="Move it away.")
    state = last_state(work)
    if state is not None and settings.resume:
        before = read_json(work / REQUEST)
        different = sorted(name for name in identity if before.get(name) != identity[name])
        if different:
            name = different[0]
            raise UsageError(
                f"{work} belongs to a run with other settings: {name} was {before.get(name)!r} and is {identity[name]!r}.",
                hint="Resume with the same settings, or start over with `force`.",
            )
        return
    if state is not None and not settings.force:
        raise UsageError(
            f"{work} holds step {state[1]['step']} of a run that was not finished.",
            hint="Continue it with `resume`, or discard it with `force`.",
        )
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        write_json(work / REQUEST, identity)
    except OSError as error:
        raise AlibiError(f"Cannot write {work}: {error.strerror}.") from None


def clear(work: Path) -> None:
    """Removes what a run put there; logs of --report-to stay."""
    for path in (*work.glob("checkpoint-*"), *work.glob("text.*"), work / REQUEST):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()
