"""What an evaluation is going to take: said by a dry run, before a long run, and while it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import alibi_cli as alibi
from alibi_cli import time_left
from alibi_cli.conversion.writer import write
from alibi_cli.evaluation import estimate, evaluate, whole_run
from alibi_cli.evaluation.estimate import RowEstimate
from alibi_cli.evaluation.processes import ALONE
from alibi_cli.evaluation.request import jobs_of
from alibi_cli.evaluation.results import RowKey
from alibi_cli.evaluation.whole_run import WholeRun
from alibi_cli.models import cost
from alibi_cli.models.language_model import in_memory
from alibi_cli.progress import Progress
from alibi_cli.settings.measuring import EvaluateSettings
from alibi_cli.text.documents import Text
from tests.checkpoint.helpers import plan_of
from tests.cli.run import alibi_here, alibi_json
from tests.models import sample_tokens, save_tiny, tiny_model

TEXT = Text(
    "t", [(f"d{n}", f"{n} of the documents, each a little text of its own, and not a long one") for n in range(5)]
)
LENGTHS = (12, 24, 48)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    source = save_tiny("llama", folder / "llama")
    write(plan_of(str(source), folder / "llama-alibi"), check=False)
    return [str(source), str(folder / "llama-alibi")]


@pytest.mark.parametrize("protocol", ["fixed-target", "non-overlapping"])
def test_a_dry_run_counts_what_a_run_feeds_and_loads_nothing(models: list[str], protocol: str, monkeypatch) -> None:
    settings: dict[str, Any] = dict(lengths=LENGTHS, text=TEXT, protocol=protocol)
    with monkeypatch.context() as nothing:
        nothing.setattr(evaluate, "load_model", None)
        nothing.setattr("alibi_cli.files.digests.checked_sha256", None)  # no weight is read for a digest either
        found = alibi.estimate(models, **settings)
    results = alibi.evaluate(models, **settings)
    assert [row.key for row in found.rows] == [row.key for row in results.rows]
    for expected, row in zip(found.rows, results.rows, strict=True):
        if expected.same_as is None:
            assert expected.tokens_scored == row.tokens_scored
            assert expected.tokens == pytest.approx(row.tokens_per_second * row.seconds)
        else:
            assert (row.arm, row.length, expected.tokens) == ("truncated", 48, 0)
    assert found.tokens == sum(row.tokens for row in found.rows) and found.seconds > 0
    assert sum(row.same_as is not None for row in found.rows) == 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "mixtral", "gpt_neox", "falcon", "roberta"])
def test_operations_are_those_that_torch_counts(family: str, monkeypatch) -> None:
    monkeypatch.setattr(cost, "SCORES", 1)
    model = tiny_model(family, torch.float32)
    model.set_attn_implementation("eager")  # torch does not count within its own attention on a CPU
    ids = sample_tokens(1, 20)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    found = cost.cost_of(in_memory(model, object()), "cpu", "auto")
    assert found.operations(20, 20) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert found.weight_bytes == sum(4 * each.numel() for each in model.parameters())


def test_a_converted_checkpoint_costs_what_its_original_does(models: list[str]) -> None:
    rows = {row.key: row for row in alibi.estimate(models, lengths=LENGTHS, text=TEXT).rows}
    source, converted = (rows[RowKey(model, "full", 24)] for model in models)
    assert converted.operations == source.operations and converted.peak_bytes == source.peak_bytes


def test_a_long_run_says_so_before_it_begins(models: list[str], monkeypatch) -> None:
    said: list[Progress] = []
    alibi.evaluate(models[1], lengths=LENGTHS, text=TEXT, progress=said.append)
    assert not any("This will take" in step.what for step in said)  # a short one does not
    said.clear()
    monkeypatch.setattr(estimate, "QUICK", 0)
    monkeypatch.setattr(estimate, "speed", lambda *_: 1e4)
    alibi.evaluate(models[1], lengths=LENGTHS, text=TEXT, progress=said.append)
    assert said[0].note and said[1].note and not said[2].note
    assert f"on cpu; the longest row, {models[1]} at 48, about " in said[0].what
    assert said[1].what == "A dry run shows what each row takes. Fewer `lengths` take less, and so does `max_segments`."


def test_processes_share_the_time(models: list[str], monkeypatch) -> None:
    monkeypatch.setattr(estimate, "QUICK", 0)
    monkeypatch.setattr(estimate, "speed", lambda *_: 1e4)
    monkeypatch.setattr(estimate, "budget_of", lambda _: 12)
    settings = EvaluateSettings(models=(models[1],), lengths=(12,))
    jobs, _, _ = jobs_of(settings, TEXT, ALONE)
    seconds = []
    for processes in (1, 2):
        rows = estimate.rows_to_come(jobs, settings)
        estimate.announce(rows, jobs, settings, processes, lambda _: None)
        seconds.append(rows[0].seconds)
    assert rows[0].windows >= 2 and seconds[0] == pytest.approx(2 * seconds[1])


def test_progress_is_of_the_whole_run(models: list[str]) -> None:
    said: list[Progress] = []
    alibi.evaluate(models, lengths=LENGTHS, text=TEXT, progress=said.append)
    steps = [step for step in said if not step.note]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {step.of for step in steps} == {steps[-1].done} and steps[0].done == 0
    assert len({step.what for step in steps if " at " in step.what}) == 6
    measured = [step for step in steps if step.per_second is not None]
    assert measured[0].pace == [f"{measured[0].per_second:,.0f} tokens/s", "0 s left"]


def test_progress_of_a_task_is_of_the_whole_run_too(models: list[str]) -> None:
    said: list[Progress] = []
    alibi.evaluate_task("listops", models[1], lengths=(128, 256), samples=2, progress=said.append)
    steps = [step for step in said if not step.note and step.unit == "tokens"]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {step.of for step in steps} == {steps[-1].done} and len({step.what for step in steps}) == 3


def test_time_left_is_of_the_whole_run_and_follows_cost(monkeypatch) -> None:
    """The second row costs nine times the first, with as many tokens: a tenth of the run is done after the first."""
    now = 100.0
    for module in (time_left, whole_run):
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
    facts: dict[str, Any] = dict(model="m", arm="full", windows=4, tokens=400, tokens_scored=8, peak_bytes=0)
    rows = [RowEstimate(length=8, operations=10.0, **facts), RowEstimate(length=16, operations=90.0, **facts)]
    said: list[Progress] = []
    run = WholeRun(rows, said.append)
    run.loading("m")
    now += 1000  # loading is no part of the pace
    run.begin(rows[0].key)
    now += 2
    run.windows(2)
    assert said[-1].seconds_left == pytest.approx(2 * 95 / 5) and said[-1].per_second == pytest.approx(100)
    now += 2
    run.windows(4)
    run.end()
    run.begin(rows[1].key)
    assert said[-1].done == 400 and said[-1].of == 800 and said[-1].seconds_left == pytest.approx(36)  # and not 0:00
    assert [step.seconds_left for step in said[:2]] == [None, None]


def test_a_clock_that_is_set_meanwhile_changes_nothing(monkeypatch) -> None:
    clock = time_left.Clock()
    monkeypatch.setattr(time_left.time, "time", lambda: -1e9)
    assert clock.seconds_left("", 0, 4) is None and 0 <= clock.seconds_left("", 2, 4) < 1


def test_dry_run_on_the_command_line(models: list[str], tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("each a little text of its own " * 20)
    words = ("eval", models[1], "--baseline", models[0], "--lengths", "12,48", "--text", text, "--dry-run")
    printed = alibi_here(*words)
    assert printed.exit_code == 0 and "the figures at" not in printed.stdout
    assert "tokens, about" in printed.stdout and printed.stdout.count("GB") == 5
    rows = alibi_json(*words, run=lambda *a, **o: alibi_here(*a))["rows"]
    expected = [("full", 12), ("full", 48), ("truncated", 48), ("full", 12), ("full", 48)]
    assert [(row["arm"], row["length"]) for row in rows] == expected
    assert all(row["seconds"] > 0 and row["fits"] for row in rows)
    written = {form: alibi_here(*words, "--format", form).stdout for form in ("markdown", "latex", "csv")}
    assert written["markdown"].count("| ") > 20 and "toprule" in written["latex"]
    assert written["csv"].startswith("model,arm,length,windows,tokens") and written["csv"].count("\n") == 6
