"""Results for experiment trackers (tensorboard, wandb, …), through accelerate: one row a length, with the figures of all models."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alibi_cli.errors import AlibiError, UsageError, first_line

LOGS = "logs"  # beside the output, or in the working directory: for trackers that write files


def check_trackers(names: Sequence[str]) -> None:
    """
    Raises:
        UsageError: no such tracker, or one whose package is not installed.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, installed = sorted(map(str, LOGGER_TYPE_TO_CLASS)), set(map(str, get_available_trackers()))
    for name in names:
        if name not in known:
            raise UsageError(f"`report_to`: there is no tracker {name!r}; there are {', '.join(known)}.")
        if name not in installed:
            raise UsageError(f"`report_to`: {name} needs a package that is not installed.", f"pip install {name}")


def track(
    names: Sequence[str], output: Path | None, facts: Mapping[str, Any], figures: Iterable[tuple[int, str, float]]
) -> None:
    """Logs (length, name, value), the length as the step. facts: of the run. Trackers of one name share a folder, one run each.

    Raises:
        AlibiError: a tracker fails, as without a connection.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers have messages of their own, which ask it whether to be shown
    rows: dict[int, dict[str, float]] = {}
    for length, name, value in figures:
        rows.setdefault(length, {})[name] = value
    folder = (Path() if output is None else output.parent) / LOGS
    for name in names:
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        run = "alibi" if output is None else output.stem
        try:
            tracker = kind(run, **({"logging_dir": folder} if kind.requires_logging_directory else {}))
            tracker.main_process_only = False  # the first process alone calls this, and none should wait for others
            if hasattr(tracker, "start"):  # accelerate 1.8 and newer
                tracker.start()
            tracker.store_init_configuration({key: str(value) for key, value in facts.items()})
            for length, values in sorted(rows.items()):  # ascending, as trackers want their steps
                tracker.log(values, step=length)
            tracker.finish()
        except Exception as error:  # each has errors of its own
            raise AlibiError(f"Reporting to {name} failed: {first_line(error)}.") from error
