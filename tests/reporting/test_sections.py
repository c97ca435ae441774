"""Models of different runs stand side by side if and only if their tokens are the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import alibi_cli as alibi
from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.contrasts import contrasts
from alibi_cli.reporting.report import Report
from alibi_cli.text.documents import Text
from tests.models import OLD_MAX, save_tiny
from tests.reporting.helpers import BASE, flat, results_of


def names(report: Report) -> list[list[str]]:
    return [[model.name for model in section.results.models] for section in report.sections]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({}, None),
        ({"text": "books"}, "of another text, books"),
        ({"protocol": "sliding"}, "by another protocol, sliding with S=32 instead of fixed-target with K=32"),
        ({"cut": "other"}, "a tokenizer that cuts it into other tokens"),
        ({"offset": 1}, "Other tokens of the same text were scored"),
    ],
)
def test_the_same_tokens_make_one_section_and_others_say_why_they_do_not(other: dict, why: str | None) -> None:
    runs = [results_of({"a": flat(10)}), results_of({"b": flat(9)}, **other)]
    report = alibi.report(runs)
    assert names(report) == ([["a", "b"]] if why is None else [["a"], ["b"]])
    assert report.sections[0].why == "" and (why is None or why in report.sections[1].why)


def test_one_run_of_two_tokenizers_is_two_sections() -> None:
    run, other = results_of({"a": flat(10)}), results_of({"b": flat(9)}, cut="other")
    run.models += other.models
    run.rows += other.rows
    run.record.update(other.record)
    assert names(alibi.report(run)) == [["a"], ["b"]]


def test_differences_across_runs_are_those_of_one_run(tmp_path: Path) -> None:
    """Two evaluations of one text, and one evaluation of both models: the same pairs, the same intervals."""
    text = Text("t", [(f"d{i}", f"the words of document {i} fall with distance " * 6) for i in range(4)])
    base = str(save_tiny("llama", tmp_path / "base"))
    for name, settings in (("one", {}), ("two", {"policy": "add", "offset": 4})):
        alibi.convert(base, tmp_path / name, verify=False, **settings)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    lengths = [OLD_MAX, 2 * OLD_MAX]
    together = alibi.evaluate([one, two], baseline=base, lengths=lengths, text=text)
    apart = [alibi.evaluate([one], baseline=base, lengths=lengths, text=text)]
    apart += [alibi.evaluate([two], lengths=lengths, text=text)]
    assert not any(each.baseline == base for each in apart[1].contrasts)
    (section,) = alibi.report(apart).sections
    found = {each.key: (each.delta_nll, each.ci95, each.verdict) for each in section.results.contrasts}
    assert found == {each.key: (each.delta_nll, each.ci95, each.verdict) for each in together.contrasts}
    assert {row.key: row.nll for row in section.results.rows} == {row.key: row.nll for row in together.rows}


def test_a_baseline_can_be_chosen_and_several_keep_to_their_own_models() -> None:
    runs = [results_of({"x": BASE, "a": flat(10)}, "x"), results_of({"y": BASE, "b": flat(9)}, "y")]

    def pairs(**settings: str) -> set[tuple[str, str]]:
        (section,) = alibi.report(runs, **settings).sections
        return {(each.model, each.baseline) for each in section.results.contrasts if each.model != each.baseline}

    assert pairs() == {("a", "x"), ("b", "y")}
    assert pairs(baseline="x") == {("a", "x"), ("b", "x"), ("y", "x")}
    with pytest.raises(alibi.UsageError, match="`baseline`: no result is of z; there are x, a, y, b"):
        alibi.report(runs, baseline="z")


def test_two_models_of_one_name_are_told_apart_and_the_same_one_is_there_once(tmp_path: Path) -> None:
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file, value in zip(files, (10, 12), strict=True):
        results_of({"m": flat(value)}).save(file)
    assert names(alibi.report(files)) == [["m", "m (second)"]]
    (section,) = alibi.report([files[0], files[0]]).sections
    assert [model.name for model in section.results.models] == ["m"] and len(section.results.rows) == 4


def test_one_checkpoint_at_two_paths_is_one_model(tmp_path: Path) -> None:
    """With the figures that either run has of it; one that says other things of the same lengths is another."""
    folder = save_tiny("llama", tmp_path / "base")
    text = Text("t", [(f"d{i}", f"the words of document {i} fall with distance " * 6) for i in range(4)])
    there = tmp_path / "moved" / "base"
    shutil.copytree(folder, there)
    alibi.convert(str(folder), tmp_path / "one", verify=False)
    one, here, moved = str(tmp_path / "one"), str(folder), str(there)
    options: Any = {"targets": OLD_MAX // 4, "text": text}
    runs = [
        alibi.evaluate([here], lengths=[OLD_MAX], **options),
        alibi.evaluate([one], baseline=moved, lengths=[OLD_MAX // 2, OLD_MAX], **options),
    ]
    (section,) = alibi.report(runs).sections
    assert [model.name for model in section.results.models] == [here, one]
    assert {(row.model, row.length) for row in section.results.rows} == {
        (name, length) for name in (here, one) for length in (OLD_MAX // 2, OLD_MAX)
    }
    assert {each.baseline for each in section.results.contrasts if each.baseline != each.model} == {here}
    (chosen,) = alibi.report(runs, baseline=moved).sections
    assert {each.baseline for each in chosen.results.contrasts if each.baseline != each.model} == {here}
    of_other = alibi.evaluate([moved, one], lengths=[OLD_MAX], targets=OLD_MAX // 4, text=Text("u", text.documents[:3]))
    for name in (here, moved):  # whichever path is named, in every section
        sections = alibi.report([*runs, of_other], baseline=name).sections
        assert [
            {c.baseline for c in each.results.contrasts if c.model == one and c.baseline != one} for each in sections
        ] == [
            {here},
            {moved},
        ]
    for row in runs[1].rows:
        if row.model == moved:
            row.nll = (row.nll or 0) + 1
    (section,) = alibi.report(runs).sections
    assert [model.name for model in section.results.models] == [here, moved, one]


def test_no_two_models_get_one_name(tmp_path: Path) -> None:
    """Not even where a run has a model of the name that another would be given."""
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    results_of({"m": flat(10)}).save(files[0])
    results_of({"m": flat(12), "m (b)": flat(14)}).save(files[1])
    (section,) = alibi.report(files).sections
    assert [model.name for model in section.results.models] == ["m", "m (b)'", "m (b)"]
    assert len({row.key for row in section.results.rows}) == len(section.results.rows) == 12


@pytest.mark.parametrize(
    ("value", "headline"),
    [
        (9.0, "At 2,048 tokens m beats base and all its arms."),
        (10.0, "At 2,048 tokens m cannot be told from base:truncated, which needs no conversion."),
        (11.5, "At 2,048 tokens m is not as good as base:truncated, which needs no conversion."),
    ],
)
def test_the_verdict_is_no_better_than_the_arms(value: float, headline: str) -> None:
    (section,) = alibi.report(results_of({"base": BASE, "m": flat(value)}, "base")).sections
    assert section.verdict.headline == headline
    (finding,) = section.verdict.findings
    word = {9.0: "better than", 10.0: "as good as", 11.5: "worse than"}[value]
    assert finding.model == "m" and f"At 512 tokens, within the trained length, {word} base" in finding.says[0]
    assert "does not change detectably" in finding.says[2]


def test_a_model_without_figures_is_not_passed_over() -> None:
    results = results_of({"base": BASE, "m": flat(9)}, "base")
    for row in [row for row in results.rows if row.model == "m"]:
        row.status = "out_of_memory" if row.length == 256 else "non_finite"
        row.nll = row.perplexity = row.ci95 = row.perplexity_ci95 = None
    results.contrasts = [each for each in results.contrasts if each.model != "m"]
    (section,) = alibi.report(results).sections
    (finding,) = [each for each in section.verdict.findings if each.model == "m"]
    assert finding.says == [
        "At 256 tokens there is no figure: out of memory. At 512, 1,024 and 2,048 tokens there is no figure: NaN or Inf."
    ]
    assert "NaN or Inf" in results.to_text("latex")


def test_what_length_does_is_told_from_the_shortest_length_of_all_runs() -> None:
    run = results_of({"base": BASE, "m": flat(9)}, "base")

    def part(lengths: tuple[int, ...]) -> Any:
        rows = [row for row in run.rows if row.length in lengths]
        some = run.model_copy(update={"rows": rows, "contrasts": []})
        some._record = {row.key: run.record[row.key] for row in rows if row.key in run.record}
        some.contrasts = contrasts(some, "base")
        return some

    (whole,), (apart,) = alibi.report(run).sections, alibi.report([part((256, 512)), part((1024, 2048))]).sections
    assert {each.key: each.verdict for each in apart.results.contrasts} == {
        each.key: each.verdict for each in whole.results.contrasts
    }
    assert apart.verdict == whole.verdict


def test_one_document_tells_nothing_apart() -> None:
    for value in (9.0, 10.0, 11.5):
        (section,) = alibi.report(results_of({"base": BASE, "m": flat(value)}, "base", documents=1)).sections
        assert section.verdict.headline == (
            "At 2,048 tokens nothing is told apart: differences on one document have no interval."
        )


def test_the_verdict_has_the_figures_of_the_rows() -> None:
    (section,) = alibi.report(results_of({"base": BASE, "m": flat(30)}, "base")).sections
    rows = {row.key: row for row in section.results.rows}
    (finding,) = section.verdict.findings
    own, other = rows["m", FULL, 2048].perplexity, rows["base", "truncated", 2048].perplexity
    assert (
        f"worse than the best arm, base:truncated: perplexity {own:.3f} against {other:.3f}, 3.0 times as high"
        in finding.says[1]
    )
