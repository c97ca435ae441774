"""What a report is made of: results, tasks, heads, training reports and checkpoint folders, told apart by what they hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from alibi_cli.calibration.head_report import HeadReport
from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.evaluation.results import Results
from alibi_cli.evaluation.results_file import load_results
from alibi_cli.evaluation.tasks.task_results import TaskResults
from alibi_cli.files.strict_json import read_json
from alibi_cli.training.train_report import TrainReport

# A key that only the JSON of one of them has.
KINDS: dict[str, type[BaseModel]] = {
    "protocol": Results,
    "task": TaskResults,
    "mean_distance": HeadReport,
    "losses": TrainReport,
}


@dataclass
class Inputs:
    """runs: by the name of their file, or "in memory". Likewise the others. folders: of checkpoints."""

    runs: list[tuple[str, Results]] = field(default_factory=list)
    tasks: list[tuple[str, TaskResults]] = field(default_factory=list)
    heads: list[tuple[str, HeadReport]] = field(default_factory=list)
    trainings: list[tuple[str, TrainReport]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def add(self, name: str, content: Any) -> None:
        """
        Raises:
            UsageError: nothing that a report shows.
        """
        if isinstance(content, Results):
            self.runs.append((name, content))
        elif isinstance(content, TaskResults):
            self.tasks.append((name, content))
        elif isinstance(content, HeadReport):
            self.heads.append((name, content))
        elif isinstance(content, TrainReport):
            self.trainings.append((name, content))
        else:
            raise UsageError(f"A {type(content).__name__} is nothing that a report shows.")


def read_inputs(given: Iterable[Any]) -> Inputs:
    """
    Raises:
        AlibiError: a file that is not there, that cannot be read, or that holds nothing a report shows.
    """
    inputs = Inputs()
    for each in given:
        if not isinstance(each, (str, Path)):
            inputs.add("in memory", each)
        elif Path(each).is_dir():
            if not (Path(each) / "config.json").is_file():
                raise UsageError(f"{each} is no checkpoint: it has no config.json.")
            inputs.folders.append(Path(each))
        else:
            inputs.add(str(each), _read(Path(each)))
    return inputs


def _read(path: Path) -> BaseModel:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        content = read_json(path)
    except AlibiError as error:  # the wrong file was named; a checkpoint with such a file would be a broken one
        raise UsageError(error.message) from None
    kind = next((kind for key, kind in KINDS.items() if key in content), None)
    if kind is None:
        raise UsageError(
            f"{path} holds nothing that a report shows.",
            "Give results of `alibi eval` and `alibi task`, or JSON of `alibi inspect heads` and `alibi train`.",
        )
    if kind is Results:
        return load_results(path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path} is not what it seems to be: {first_line(error)}.") from None
