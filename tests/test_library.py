"""The library: each verb is one function, silent without `progress`, and the same as its command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from jsonschema import Draft202012Validator
from nbclient import NotebookClient
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

import alibi_cli as alibi
from alibi_cli.conversion import meta_surgery, plan
from alibi_cli.evaluation.results import RowKey
from alibi_cli.models import source
from alibi_cli.progress import Progress
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside, alibi_json
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import checkpoints, text  # noqa: F401
from tests.evaluation.helpers import LENGTHS
from tests.models import save_tiny
from tests.python import python


def test_a_conversion_parses_the_config_once_and_builds_one_model_without_weights(tmp_path: Path, monkeypatch) -> None:
    folder, calls = save_tiny("llama", tmp_path / "m"), dict[str, int]()
    parse, build = source.config_of, meta_surgery.MetaSurgery.__init__

    def parsed(*args: Any) -> Any:
        calls["config"] += 1
        return parse(*args)

    def built(*args: Any, **options: Any) -> None:
        calls["meta"] += 1
        build(*args, **options)

    def counted(name: str) -> None:
        original = getattr(PreTrainedConfig, name).__func__

        def count(cls: Any, given: Any, **options: Any) -> Any:
            of_source = str(given) == str(folder) if name == "get_config_dict" else given.get("model_type") == "llama"
            calls[name] += of_source
            return original(cls, given, **options)

        monkeypatch.setattr(PreTrainedConfig, name, classmethod(count))

    counted("from_dict")
    counted("get_config_dict")
    monkeypatch.setattr(source, "config_of", parsed)
    monkeypatch.setattr(plan.MetaSurgery, "__init__", built)
    (tmp_path / "text.txt").write_text("abcdefghij" * 400)
    for settings in ({}, {"policy": "add", "slopes": "calibrated", "calibration_text": [tmp_path / "text.txt"]}):
        calls.update(config=0, meta=0, from_dict=0, get_config_dict=0)
        report = alibi.convert(str(folder), tmp_path / "out", force=True, **settings)
        assert report.verified is not None and report.verified.passed
        assert calls == {"config": 1, "meta": 1, "from_dict": 1, "get_config_dict": 0}


def test_verbs_are_silent_and_tell_progress_what_they_do(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    seen: list[Progress] = []
    folder = save_tiny("gpt2", tmp_path / "m")
    capfd.readouterr()
    alibi.convert(folder, tmp_path / "quiet")
    alibi.convert(folder, tmp_path / "loud", progress=seen.append)
    assert capfd.readouterr().out == ""
    stages = list(dict.fromkeys(step.what for step in seen))
    assert stages == ["Checking", "Writing", "Verifying"]
    assert 0 < seen[-1].done <= seen[-1].of and seen[-1].unit == "bytes"
    assert str(Progress("Writing", 5, 10, "bytes")) == "Writing: 5 of 10 bytes" and str(Progress("x", note=True)) == "x"


WITHOUT_PROGRESS = """
import sys
import alibi_cli as alibi
from transformers import AutoModelForCausalLM
from transformers.utils import logging
source, text, out = sys.argv[1:]
words = open(text).read()
alibi.convert(source, out, policy="add", slopes="calibrated", calibration_text=[text])
alibi.evaluate([out], lengths=[8], text=words)
alibi.evaluate_task("listops", [out], lengths=[120], samples=1)
alibi.inspect_heads(out, tokens=64, length=16, text=[text])
alibi.train(out, out + "-healed", steps=1, length=16, batch_tokens=64, text=[text])
alibi.verify(out + "-healed").raise_if_failed()
assert logging.is_progress_bar_enabled() and logging.get_verbosity() < logging.ERROR, "not as they were"
print("the control", file=sys.stderr)
AutoModelForCausalLM.from_pretrained(source)
"""


def test_without_progress_the_library_is_silent(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    (tmp_path / "t.txt").write_text("the bias of a head falls with distance " * 100)
    result = python("-c", WITHOUT_PROGRESS, folder, tmp_path / "t.txt", tmp_path / "out", cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    before, _, after = result.stderr.partition("the control\n")
    assert result.stdout == before == "" and "Loading weights" in after


def test_a_model_in_memory_gives_the_bits_of_its_folder(checkpoints: dict[str, str], text: Text) -> None:  # noqa: F811
    for name in ("llama", "llama-alibi"):
        expected = alibi.evaluate([checkpoints[name]], lengths=LENGTHS, text=text)
        model = AutoModelForCausalLM.from_pretrained(checkpoints[name], trust_remote_code=True).train()
        tokenizer = AutoTokenizer.from_pretrained(checkpoints[name], trust_remote_code=True)
        for given in ([model], (model, tokenizer)):
            found = alibi.evaluate(given, lengths=LENGTHS, text=text)
            assert [row.nll for row in found.rows] == [row.nll for row in expected.rows]
            for key, scored in expected.record.items():
                assert torch.equal(torch.tensor(found.record[key].nll), torch.tensor(scored.nll))
        assert model.training  # as it was
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.1)  # the control
        changed = alibi.evaluate([model], lengths=LENGTHS, text=text)
        assert changed.rows[0].nll != expected.rows[0].nll and changed.models[0].digest != found.models[0].digest


def test_two_models_of_one_name_are_refused(checkpoints: dict[str, str], text: Text) -> None:  # noqa: F811
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    with pytest.raises(alibi.UsageError, match="Two models are called"):
        alibi.evaluate([checkpoints["llama"], model], lengths=LENGTHS, text=text)


def test_results_as_frames_html_and_files(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:  # noqa: F811
    llama, converted = checkpoints["llama"], checkpoints["llama-alibi"]
    results = alibi.evaluate([converted], baseline=llama, lengths=LENGTHS, text=text)
    frame, contrasts = results.to_frame(), results.contrasts_frame()
    assert list(frame.length) == [row.length for row in results.rows] and len(contrasts) == len(results.contrasts)
    assert set(results.record) == {RowKey(r.model, r.arm, r.length) for r in results.rows if r.status == "ok"}
    html = results._repr_html_()
    assert html.count("<tr>") == len(results.rows) + len(results.contrasts) + 2 and "Paired differences" in html
    results.save(tmp_path / "r.json")
    again = alibi.load_results(tmp_path / "r.json")
    assert again.model_dump() == results.model_dump() and again.record.keys() == results.record.keys()
    results.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG" and results.plot().axes


@torch.no_grad()
def test_calibrate_in_memory_is_what_convert_does(tmp_path: Path) -> None:
    folder, words = (
        save_tiny("llama", tmp_path / "m"),
        [f"{n} is the number of this sentence. " * 20 for n in range(30)],
    )
    for n, part in enumerate(words):
        (tmp_path / f"{n}.txt").write_text(part)
    files = [tmp_path / f"{n}.txt" for n in range(30)]
    settings = {"policy": "add", "calibration_tokens": 400, "sinks": 2, "max_sequence_length": 400}
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    trained = model.config.max_position_embeddings
    tokenizer, told, told_by_convert = AutoTokenizer.from_pretrained(folder), [], []
    found = alibi.calibrate(model, words, tokenizer=tokenizer, progress=told.append, **settings)
    given = {"slopes": "calibrated", "calibration_text": files, "progress": told_by_convert.append, **settings}
    report = alibi.convert(folder, tmp_path / "out", **given)
    announced = next(
        each for each in told_by_convert if each.note and each.what.startswith("Calibrating by reach: about ")
    )
    assert told[0] == announced
    assert found.slopes == report.slopes and found.sinks == report.sinks and not hasattr(model.config, "alibi_slopes")
    assert found.sink_distance == report.sink_distance == trained
    alibi.apply_alibi(model, 400, **found.settings)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(0, 60, (1, 4 * trained), generator=torch.Generator().manual_seed(0))
    expected = written(tokens).logits
    assert (model(tokens).logits - expected).abs().max() < 1e-4
    alibi.apply_alibi(model, 400, **{**found.settings, "sink_distance": None})  # the control
    differs = (model(tokens).logits - expected).abs().amax(-1)[0]
    assert differs[:trained].max() < 1e-4 and differs[trained + 1 :].max() > 0.1


def test_verify_raises_on_request(tmp_path: Path) -> None:
    alibi.convert(save_tiny("gpt2", tmp_path / "m"), tmp_path / "out")
    alibi.verify(tmp_path / "out").raise_if_failed()
    (tmp_path / "out" / "alibi_surgery.py").write_text("")
    with pytest.raises(alibi.AlibiError, match=r"alibi_surgery\.py is changed"):
        alibi.verify(tmp_path / "out").raise_if_failed()


def test_heads_and_calibration_hash_no_weights(tmp_path: Path, monkeypatch) -> None:
    """Of a large model that is hundreds of gigabytes, for a digest that neither asks for."""
    folder = save_tiny("llama", tmp_path / "m")
    (tmp_path / "t.txt").write_text("the bias of a head falls with distance " * 100)

    def hashed(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr("alibi_cli.files.digests.checked_sha256", hashed)
    alibi.inspect_heads(folder, tokens=64, length=16, text=[tmp_path / "t.txt"])
    alibi.convert(folder, tmp_path / "out", policy="add", slopes="calibrated", calibration_text=[tmp_path / "t.txt"])
    with pytest.raises(AssertionError, match="was hashed"):  # the control
        alibi.evaluate([folder], lengths=[8], text="some words to score " * 4)


# All that `make docs` runs, in one process that has imported nothing else.
CURRENT = """
import runpy, sys
sys.path.insert(0, "scripts")
names, sys.argv = sys.argv[1:], ["write", "--check"]
for name in names:
    runpy.run_path(f"scripts/{name}.py", run_name="__main__")
    print(name)
"""


def test_what_is_written_from_the_code_is_current() -> None:
    names = re.findall(r"scripts/(write_\w+)\.py$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    result = python("-c", CURRENT, *names, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == names and len(names) > 7


def test_type_checkers_see_the_verbs(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(
        "import alibi_cli as alibi\nreport = alibi.convert('m', slopes='press')\nlength: int = report.trained_length\n"
    )
    (tmp_path / "wrong.py").write_text(
        "import alibi_cli as alibi\nalibi.convert('m', sinks='two')\nalibi.covert('m')\n"
    )
    cache = REPOSITORY / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--config-file", "pyproject.toml"]
    found = {}
    for name in ("right", "wrong"):
        words = [*command, str(tmp_path / f"{name}.py")]
        found[name] = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found["right"].returncode == 0, found["right"].stdout
    assert "arg-type" in found["wrong"].stdout and "attr-defined" in found["wrong"].stdout


def test_outputs_fit_their_schemas(checkpoints: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    llama, converted = checkpoints["llama"], checkpoints["llama-alibi"]
    (tmp_path / "words.txt").write_text("the bias of a head falls with distance " * 60)
    commands = {
        "convert": ["convert", llama, "-o", tmp_path / "out"],
        "plan": ["inspect", "plan", llama],
        "verify": ["verify", converted],
        "eval": [
            *["eval", converted, "--baseline", llama, "--lengths", "8,48", "--max-segments", "4"],
            "--output",
            tmp_path / "r.json",
        ],
        "eval-dry-run": ["eval", converted, "--lengths", "8,48", "--dry-run"],
        "report": ["report", tmp_path / "r.json"],
        "task": ["task", "listops", converted, "--lengths", "200", "--samples", "2"],
        "train": [
            *["train", converted, "-o", tmp_path / "t", "--steps", "1", "--length", "8", "--batch-tokens", "16"],
            "--device",
            "cpu",
        ],
        "export": ["export", checkpoints["gpt2-alibi"], "-o", tmp_path / "m.gguf", "--no-verify"],
        "heads": ["inspect", "heads", llama, "--length", "16", "--tokens", "64"],
        "slopes": ["inspect", "slopes", converted],
        "policies": ["inspect", "policies"],
        "env": ["env"],
        "bench-attention": ["bench", "attention", "--lengths", "16", "--backends", "eager", "--repeats", "1"],
    }
    assert {path.stem for path in (REPOSITORY / "docs" / "schema").glob("*.json")} == set(commands)
    for name, words in commands.items():
        schema = json.loads((REPOSITORY / "docs" / "schema" / f"{name}.json").read_text())
        Draft202012Validator.check_schema(schema)
        validator, printed = Draft202012Validator(schema), alibi_json(*words, run=alibi_inside)
        assert not list(validator.iter_errors(printed)), name
        assert list(validator.iter_errors([printed])), name  # the control


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3", resources=where).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert shown and not any(output.output_type == "error" for output in shown)
    if path.stem == "convert_and_measure":
        assert any("<table>" in output.get("data", {}).get("text/html", "") for output in shown)
        assert shown[-1]["data"]["text/plain"] == "True"
