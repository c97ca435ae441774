"""The benchmarks' record: its schema and its verdicts, not its timings."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from alibi_cli.attention.registry import attention_names
from benchmarks import __main__ as command
from benchmarks import attention, convert, models, scoring, startup
from benchmarks.claims import BEGIN, END, POLICIES, SHOWN, Claim, Results, of_models, page, table
from tests.conftest import REPOSITORY
from tests.fuzzing import THOROUGH

# Seconds of measuring each, which `make bench` does at length.
at_night = pytest.mark.skipif(not THOROUGH, reason="make fuzz")


def claim(**changes) -> Claim:
    return Claim(**{"claim": "a", "against": "b", "unit": "s", "ours": 1.0, "baseline": 2.0, "target": 0.5} | changes)


def test_a_claim_is_met_up_to_its_bar_and_not_beyond() -> None:
    assert claim().met and claim().ratio == 0.5 and not claim(ours=1.01).met
    lines = table([claim(), claim(ours=1.01)]).splitlines()
    assert lines[1].endswith(" met") and lines[2].endswith("NOT MET") and len({len(line) for line in lines[:2]}) == 2
    for wrong in ({"ours": float("nan")}, {"ours": "fast"}, {"extra": 1}):
        with pytest.raises(ValidationError):
            claim(**wrong)


@at_night
def test_attention_in_small(tmp_path: Path, monkeypatch, capsys) -> None:
    small = {256: 9.0, 512: 9.0}
    measured = list(attention.measure(True, small, error_lengths=(320,)))
    monkeypatch.setattr(attention, "measure", lambda short: measured)
    command.main(["attention", "--short", "--output", str(tmp_path / "new" / "bench.json")])
    written = (tmp_path / "new" / "bench.json").read_text()
    shown = tmp_path / "page.md"
    shown.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(startup, "measure", lambda short: [claim(claim="alibi --help", against="import typer, rich")])
    command.main(["startup", "--output", str(tmp_path / "new" / "bench.json"), "--page", str(shown)])
    lines = shown.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after") and "old" not in lines
    assert (
        "| `alibi --help` | 1.00 s | `import typer, rich` | 2.00 s | 0.50 |" in lines and "old" not in shown.read_text()
    )
    assert capsys.readouterr().out.count("\n") == 1 + len(measured) + 2
    claims = Results.model_validate(json.loads(written)).claims["attention"]
    assert claims == measured and all(claim.ours > 0 and claim.baseline > 0 for claim in claims)
    names = [claim.claim for claim in claims]
    assert len(set(names)) == len(names)
    for expected in (
        "attention, 256 tokens, normal",
        "attention, 512 tokens, demo-llama, look-back slopes",
        "peak memory of attention, 512 tokens",
        "relative error of gradients, float32, 1024 tokens",
        *(f"error of {name}, bfloat16, 320 tokens" for name in attention_names()),
    ):
        assert expected in names
    assert all(claim.met for claim in claims if "error" in claim.claim or "memory" in claim.claim)


@at_night
def test_converting_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is real: 300 MB are verified in less than it takes to hold them. The largest matrix takes 23 MB, and up to 2 MB
    of the page cache are mapped for each tensor of three layers."""
    convert.make_model(tmp_path / "model", 0.3)
    runs = {arm: convert.run(arm, tmp_path) for arm in ("start", "verified", "cp -r, flushed")}
    assert 0 < runs["start"][1] < runs["verified"][1] < runs["start"][1] + convert.MEGABYTES + 100
    assert all(seconds > 0 for seconds, _ in runs.values()) and not (tmp_path / "out").exists()
    monkeypatch.setattr(convert, "make_model", lambda folder, size: None)
    monkeypatch.setattr(convert, "run", lambda arm, folder: runs.get(arm, runs["verified"]))
    claims = list(convert.measure(True, (0.3, 0.5), repeats=1))
    names = [(claim.claim, claim.against) for claim in claims]
    assert len(set(names)) == len(names) and ("convert 0.3 GB, verified", "cp -r") in names
    assert ("memory of convert 0.5 GB, verified", "of 0.3 GB") in names


def test_starting_in_small() -> None:
    claims = list(startup.measure(True, repeats=1))
    assert {claim.claim for claim in claims} == set(startup.COMMANDS) and all(claim.ours > 0 for claim in claims)


@at_night
def test_scoring_in_small() -> None:
    """Without the harness, which is installed from the network."""
    measured = list(scoring.measure(True, ("demo-gpt2",), (96,), harness=False, head_length=512))
    assert [(claim.claim, claim.against, claim.target) for claim in measured] == [
        ("scoring, 96 tokens, demo-gpt2", "loop, same windows", 1.0),
        ("scoring, 96 tokens, demo-gpt2", "loop, each token once", 1.0),
        ("peak memory of scoring, 96 tokens, demo-gpt2", "loop", 1.0),
        ("peak memory of the head, 512 tokens, a vocabulary of 128256", "hidden states and one chunk", 1.2),
    ]
    assert all(claim.ours > 0 and claim.baseline > 0 for claim in measured) and measured[-1].met


@pytest.mark.parametrize("length", [512, 96])
def test_the_documentations_loop_scores_what_ours_does(length: int) -> None:
    model, tokenizer = scoring.load("demo-gpt2")
    text = "The bias of a head falls with the distance between query and key. " * 40
    stride = min(512, length)
    parts = [text[: scoring.n_tokens(arm, length, 2)] for arm in ("loop", "sliding")]
    theirs, n = scoring.loop(model, tokenizer, parts[0], length)
    ours, m = scoring.sliding(model, tokenizer, parts[1], length)
    assert n == m == 2 * stride and abs(theirs - ours) / n < 0.02  # contexts differ by a token, and so do the tokens
    other, _ = scoring.sliding(model, tokenizer, parts[1][::-1], length)
    assert abs(theirs - other) / n > 0.2


def test_the_page_shows_what_was_measured() -> None:
    measured = Results.model_validate(json.loads((REPOSITORY / "benchmarks" / "measured.json").read_text()))
    text = (REPOSITORY / "docs" / "results" / "speed.md").read_text()
    rows = max(0, len(of_models(measured.claims.get("models", []))) - 2)  # a line below its head, and an empty one
    assert page(text, measured) == text and text.count("\n| ") == len(SHOWN) + 1 + rows
    measured.claims["startup"][0].ours *= 2
    assert page(text, measured) != text


def test_a_run_with_other_threads_keeps_what_was_measured(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "measured.json"
    for name, threads in (("startup", 2), ("scoring", 1)):
        monkeypatch.setattr({"startup": startup, "scoring": scoring}[name], "measure", lambda short: [claim()])
        monkeypatch.setattr(command.torch, "get_num_threads", lambda n=threads: n)
        command.main([name, "--output", str(file)])
    found = Results.model_validate_json(file.read_text())
    assert list(found.claims) == ["startup", "scoring"] and found.threads == {"startup": 2, "scoring": 1}


def test_whole_models_in_small() -> None:
    """Every case is timed, and the page's table finds its rows by the names that they have."""
    claims = list(models.measure(False, (16, 24), rounds=1, hidden_size=72, intermediate_size=96))
    assert len(claims) == 2 * len(models.TARGETS) * len(models.CONVERSIONS)
    assert all(claim.ours > 0 and claim.baseline > 0 for claim in claims)
    head, _, *rows, _ = of_models(claims)
    assert head.endswith("| 16 | 24 |") and len(rows) == len(models.TARGETS) * len(POLICIES)


def test_whole_models_are_a_table_of_ratios() -> None:
    claims = [
        Claim(claim=f"{what}, {length} tokens, policy {name}", against="a", unit="s", ours=ours, baseline=2.0, target=1)
        for what, name, ours in (("prefill", "add, 4 sinks", 1.0), ("decoding", "replace", 3.0))
        for length in (8192, 512)
    ]
    assert of_models([*claims, claims[0].model_copy(update={"claim": "alibi --help"})]) == [
        "| time of a converted model, in that of its original | 512 | 8,192 |",
        "|---|---:|---:|",
        "| prefill, add, 4 sinks | 0.50 | 0.50 |",
        "| decoding, replace | 1.50 | 1.50 |",
        "",
    ]
    assert of_models([]) == []


def test_an_unknown_benchmark_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["atention"])
    assert caught.value.code == 2 and "there are attention" in capsys.readouterr().err
