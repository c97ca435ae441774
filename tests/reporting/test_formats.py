"""Tables for documents, and names that fit."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

import alibi_cli as alibi
from alibi_cli.names import ROOM, short_names
from tests.cli.run import alibi_inside
from tests.reporting.helpers import BASE, flat, results_of

HOSTILE = r"%_$x^{#}&~\|<b>[0]"


def test_names_are_as_short_as_they_can_be_and_unique() -> None:
    assert short_names(["org/gpt2", "build/kept", "gpt2"]) == {
        "org/gpt2": "org/gpt2",
        "build/kept": "kept",
        "gpt2": "gpt2",
    }
    assert short_names(["a/x/m", "b/x/m"]) == {"a/x/m": "a/x/m", "b/x/m": "b/x/m"}
    assert short_names(["/tmp/out/", "/"]) == {"/tmp/out/": "out", "/": "/"}
    long = [f"runs/smollm2-135m-kept-on-wikitext-{i}-after-training-for-long" for i in range(20)]
    labels = list(short_names(long).values())
    assert len(set(labels)) == 20 and all(len(label) <= ROOM for label in labels)


def test_a_text_of_many_files_does_not_fill_a_title() -> None:
    files = ", ".join(f"document-{i}.txt" for i in range(30))
    results = results_of({"base": BASE}, text=files)
    left = results.plot().axes[0].get_title()
    assert left == "fixed-target, document-0.txt, …" and files not in results.to_text("markdown")
    assert "on document-0.txt, document-1.txt, document-2.txt, …, sha256" in results.to_text("latex").replace(
        r"\ldots{}", "…"
    )
    assert results.text.name == files  # the record


def test_csv_has_full_names_and_figures(tmp_path: Path) -> None:
    results = results_of({"build/a/base": BASE, "=HYPER": flat(9)}, "build/a/base")
    results.save(tmp_path / "r.json")
    rows = list(csv.DictReader(io.StringIO(alibi_inside("report", tmp_path / "r.json", "--format", "csv").stdout)))
    expected = {row.key: (row.perplexity, row.ci95[1]) for row in results.rows if row.ci95}
    found = {(row["model"], row["arm"], int(row["length"])): row for row in rows}
    assert {key: (float(row["perplexity"]), float(row["nll_high"])) for key, row in found.items()} == expected


def test_markdown_keeps_its_columns_whatever_a_name_holds() -> None:
    text = results_of({"base": BASE, HOSTILE: flat(9)}, "base").to_text("markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {7} and r"\|\<b\>\[0\]" in text


def test_latex_is_a_document_that_compiles(tmp_path: Path) -> None:
    results = results_of({"base": BASE, HOSTILE: flat(9), "plain": flat(9)}, "base")
    tables = results.to_text("latex")
    assert tables.count(r"\toprule") == 2 and r"\%\_\$x\textasciicircum{}\{\#\}\&\textasciitilde{}" in tables
    assert "$-0." in tables and " -0." not in tables.replace("$-0.", "")  # a minus, no hyphen
    line = next(line for line in tables.splitlines() if line.startswith("plain &"))
    assert len(line.split("&")) == 5  # a column for each length
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(head + tables + r"\end{document}", encoding="utf-8")
    run = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "t.tex").write_text(head + tables.replace(r"\_", "_") + r"\end{document}", encoding="utf-8")
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode != 0  # the control


def test_a_table_that_stands_alone_says_what_its_arms_are_and_whether_its_intervals_are_rough() -> None:
    few, many = (results_of({"base": BASE}, "base", documents=count) for count in (4, 24))
    for form in ("latex", "markdown"):
        assert ("of so few documents, it is rough" in few.to_text(form)) == (form == "latex")
        assert "rough" not in many.to_text(form)
    assert "It is of one document, so there is no interval" in results_of({"base": BASE}, documents=1).to_text("latex")
    assert "window: latest 512 tokens." in many.to_text("latex")
    several = results_of({"base": BASE}, "base")
    for row in several.rows:
        row.arm_settings = {"factor": row.length / 512} if row.arm == "window" else None
    assert "window: factor 2, factor 4." in several.to_text("latex")


def test_why_tables_stand_apart_is_said_beside_the_tables_of_a_paper(tmp_path: Path) -> None:
    for name in ("one", "two"):
        results_of({name: BASE}, text=name).save(tmp_path / f"{name}.json")
    report = alibi_inside("report", tmp_path / "one.json", tmp_path / "two.json", "--format", "latex")
    assert "of another text" in report.stderr and "of another text" not in report.stdout


def test_eval_and_report_print_the_same_tables(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the bias of a head falls with distance " * 20)
    words = ["eval", tiny_llama, "--text", tmp_path / "t.txt", "--lengths", "8,12", "--output", tmp_path / "r.json"]
    for form in ("markdown", "latex", "csv"):
        printed = alibi_inside(*words, "--resume", "--format", form).stdout
        assert printed == alibi_inside("report", tmp_path / "r.json", "--format", form).stdout
        assert printed == alibi.load_results(tmp_path / "r.json").to_text(form)
    both = alibi_inside(*words, "--resume", "--format", "csv", "--json", code=2)
    assert "Give --format or --json, not both." in both.stderr
