"""Evaluations in experiment trackers: a row for each length."""

from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking

import alibi_cli as alibi
from tests.cli.run import alibi_inside
from tests.models import OLD_MAX


class Recorder(tracking.GeneralTracker):
    """Keeps what it is told."""

    name = "recorder"
    requires_logging_directory = True
    told: list[Any]

    def __init__(self, run_name: str, logging_dir: Path):
        super().__init__(_blank=True)
        Recorder.told = [(run_name, logging_dir)]

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(values)

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", ["recorder"])
    return Recorder


def test_an_evaluation_is_a_row_for_each_length(recorder: type[Recorder], tiny_llama: Path, tmp_path: Path) -> None:
    text = [(f"d{i}", f"the words of document {i} fall with distance " * 6) for i in range(3)]
    lengths, output = [8, OLD_MAX, 2 * OLD_MAX], tmp_path / "r.json"
    results = alibi.evaluate([tiny_llama], lengths=lengths, text=text, output=output, report_to=["recorder"])
    (run, folder), facts, *rows, end = recorder.told
    assert (run, folder, end) == ("r", tmp_path / "logs", "finished") and facts["protocol"] == "fixed-target"
    assert [step for step, _ in rows] == lengths
    for step, values in rows:
        of_length = {row.arm: row for row in results.rows if row.length == step}
        assert values["tiny-llama/perplexity"] == of_length["full"].perplexity
        assert values["tiny-llama/nll"] == of_length["full"].nll
        assert ("tiny-llama:truncated/nll" in values) == ("truncated" in of_length) == (step > OLD_MAX)


def test_a_task_is_one_too(recorder: type[Recorder], tiny_llama: Path) -> None:
    results = alibi.evaluate_task("listops", tiny_llama, lengths=[160, 256], samples=2, report_to="recorder")
    rows = dict(recorder.told[2:-1])
    assert rows == {row.length: {"tiny-llama/accuracy": row.accuracy} for row in results.rows if row.depth is None}


def test_a_tracker_that_is_not_there_is_named_before_the_work(tiny_llama: Path) -> None:
    unknown = alibi_inside("eval", tiny_llama, "--report-to", "nothing", code=2)
    assert "--report-to: there is no tracker 'nothing'; there are" in unknown.stderr
    missing = alibi_inside("eval", tiny_llama, "--report-to", "clearml", code=2)
    assert "clearml needs a package that is not installed" in missing.stderr


def test_a_tracker_that_fails_is_one_line(recorder: type[Recorder], tiny_llama: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto it")

    monkeypatch.setattr(recorder, "log", fail)
    with pytest.raises(alibi.AlibiError, match=r"^Reporting to recorder failed: no route\.$"):
        alibi.evaluate([tiny_llama], lengths=[8], text="some words to score " * 4, report_to="recorder")
