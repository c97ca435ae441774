"""The library: each verb is one function, silent without `progress`, and the same as its command."""

import ast
import inspect
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
from transformers import AutoModelForCausalLM, AutoTokenizer

import alibi_cli as alibi
from alibi_cli.cli.options import option_of
from alibi_cli.conversion import meta_surgery, plan
from alibi_cli.evaluation.results import RowKey
from alibi_cli.models import source
from alibi_cli.progress import Progress
from alibi_cli.settings.conversion import ConvertSettings, PlanSettings
from alibi_cli.settings.declaration import Verb, declared
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.settings.measuring import EvaluateSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside, alibi_json
from tests.conftest import REPOSITORY
from tests.evaluation.test_run import LENGTHS, checkpoints, text  # noqa: F401
from tests.models import save_tiny
from tests.python import python

VERBS = [name for name in alibi.__all__ if name != "__version__" and hasattr(getattr(alibi, name), "__signature__")]


def settings_classes(base: type[Verb] = Verb) -> list[type[Verb]]:
    return [cls for sub in base.__subclasses__() for cls in (sub, *settings_classes(sub))]


def test_a_conversion_parses_the_config_once_and_builds_one_model_without_weights(tmp_path: Path, monkeypatch) -> None:
    calls: dict[str, int] = {"config": 0, "meta": 0}
    parse, build = source.config_of, meta_surgery.MetaSurgery.__init__

    def parsed(*args: Any) -> Any:
        calls["config"] += 1
        return parse(*args)

    def built(*args: Any, **options: Any) -> None:
        calls["meta"] += 1
        build(*args, **options)

    monkeypatch.setattr(source, "config_of", parsed)
    monkeypatch.setattr(plan.MetaSurgery, "__init__", built)
    folder, words = save_tiny("llama", tmp_path / "m"), "abcdefghij" * 400
    (tmp_path / "text.txt").write_text(words)
    for settings in ({}, {"policy": "add", "slopes": "calibrated", "calibration_text": [tmp_path / "text.txt"]}):
        calls.update(config=0, meta=0)
        report = alibi.convert(str(folder), tmp_path / "out", force=True, **settings)
        assert report.verified is not None and report.verified.passed and calls == {"config": 1, "meta": 1}


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


def test_calibrate_in_memory_is_what_convert_does(tmp_path: Path) -> None:
    folder, words = (
        save_tiny("llama", tmp_path / "m"),
        [f"{n} is the number of this sentence. " * 20 for n in range(30)],
    )
    for n, part in enumerate(words):
        (tmp_path / f"{n}.txt").write_text(part)
    files = [tmp_path / f"{n}.txt" for n in range(30)]
    settings = {"policy": "add", "calibration_tokens": 400}
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = alibi.calibrate(model, words, tokenizer=AutoTokenizer.from_pretrained(folder), **settings)
    report = alibi.convert(folder, tmp_path / "out", slopes="calibrated", calibration_text=files, **settings)
    assert found.slopes == report.slopes and found.sinks == report.sinks and not hasattr(model.config, "alibi_slopes")
    alibi.apply_alibi(model, 100, **found.settings)
    assert model.config.alibi_slopes == report.slopes


def test_verify_raises_on_request(tmp_path: Path) -> None:
    alibi.convert(save_tiny("gpt2", tmp_path / "m"), tmp_path / "out")
    alibi.verify(tmp_path / "out").raise_if_failed()
    (tmp_path / "out" / "alibi_surgery.py").write_text("")
    with pytest.raises(alibi.AlibiError, match=r"alibi_surgery\.py is changed"):
        alibi.verify(tmp_path / "out").raise_if_failed()


@pytest.mark.parametrize("name", VERBS)
def test_every_setting_is_a_keyword_with_help(name: str) -> None:
    function = getattr(alibi, name)
    keywords = inspect.signature(function).parameters
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in keywords.values())
    for parameter in keywords:
        assert f"{parameter}:" in function.__doc__ or f"{parameter}," in function.__doc__, parameter


def test_wrong_settings_name_the_setting_and_its_nearest() -> None:
    for given, name, says in (
        ({"polcy": "add"}, "policy", "Did you mean `policy`?"),
        ({"sinks": -1}, "sinks", "`sinks` must be at least 0"),
        ({"sinks": "two"}, "sinks", "`sinks` is a whole number such as 8192"),
        ({"calibrate": "guess"}, "calibrate", "`calibrate` is reach, look-back"),
        ({"max_bias": float("nan")}, "max_bias", "`max_bias` must be above 0"),
        ({"horizon": 8}, "horizon", "`horizon` needs `slopes=calibrated`"),
        ({"max_sequence_length": 10**23}, "max_sequence_length", "between 1 and"),
    ):
        with pytest.raises(alibi.UsageError) as error:
            alibi.plan("demo-gpt2", **given)
        assert says in str(error.value) and error.value.setting == name and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("cls", "settings", "says"),
    [
        (TrainSettings, {"kd_weight": 0.5}, "`kd_weight` needs `teacher`"),
        (TrainSettings, {"temperature": 2.0}, "`temperature` needs `teacher`"),
        (TrainSettings, {"text_column": "body"}, "`text_column` needs `dataset`"),
        (EvaluateSettings, {"split_on": "blank-line"}, "`split_on` needs `text`"),
        (EvaluateSettings, {"lengths": [8, 1 << 40]}, "`lengths` are whole numbers from 2 to"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(cls: type[Verb], settings: dict, says: str) -> None:
    needed = {"checkpoint": "m", "output": "o", "steps": 1} if cls is TrainSettings else {}
    with pytest.raises(alibi.UsageError, match=says):
        settings_of(cls, {**needed, **settings})


def test_lengths_are_written_as_people_write_them() -> None:
    for written, lengths in (
        ("1k,512", (512, 1024)),
        ("2k:8k", (2048, 4096, 8192)),
        ("1e3", (1000,)),
        ("1M", (1 << 20,)),
    ):
        assert settings_of(EvaluateSettings, {"lengths": written}).lengths == lengths
    for wrong in ("1.5k", "1e-3", "k", "", "8,", "4:2"):
        with pytest.raises(alibi.UsageError, match="`lengths`"):
            settings_of(EvaluateSettings, {"lengths": wrong})


def test_every_number_is_written_as_people_write_it(tmp_path: Path) -> None:
    """The same spellings everywhere: from the command line, in Python, in a preset."""
    for written, number in (("32k", 32768), ("1M", 1 << 20), ("2e3", 2000), (" 17 ", 17), (17, 17)):
        assert settings_of(PlanSettings, {"model": "m", "max_sequence_length": written}).max_sequence_length == number
    for wrong in ("1.5k", "k", "", "seven", "1e400", "nan", "9" * 400, 10**400, True, 1.0):
        with pytest.raises(alibi.UsageError, match="`max_sequence_length`"):
            settings_of(PlanSettings, {"model": "m", "max_sequence_length": wrong})
    with pytest.raises(alibi.UsageError, match="between 1 and 2,147,483,648"):
        settings_of(PlanSettings, {"model": "m", "max_sequence_length": "4096M"})
    preset = tmp_path / "own.yaml"
    preset.write_text("command: convert\ndescription: own\nsettings: {max_sequence_length: 32k, sinks: 1e0}\n")
    found = settings_of(ConvertSettings, {"model": "m"}, str(preset))
    assert (found.max_sequence_length, found.sinks) == (32768, 1)
    preset.write_text("command: convert\ndescription: own\nsettings: {max_sequence_length: 32q}\n")
    with pytest.raises(alibi.UsageError, match=r"own.yaml: max_sequence_length: .*is a whole number .* it is '32q'"):
        settings_of(ConvertSettings, {"model": "m"}, str(preset))
    budget = {"checkpoint": "m", "output": "o", "tokens": "1e6", "length_schedule": "1k:0.5,2k:0.5"}
    healed = settings_of(TrainSettings, budget)
    assert (healed.tokens, healed.length_schedule) == (10**6, ((1024, 0.5), (2048, 0.5)))
    assert (
        alibi_inside("inspect", "bias", "--length", "1k").stdout
        == alibi_inside("inspect", "bias", "--length", 1024).stdout
    )
    folder = save_tiny("llama", tmp_path / "m")
    for written in ("2k", "2048"):
        planned = alibi_json("inspect", "plan", folder, "--max-sequence-length", written)
        assert planned["max_sequence_length"] == 2048
    refused = alibi_inside("inspect", "plan", folder, "--max-sequence-length", "many", code=2)
    assert "--max-sequence-length" in refused.stderr and "many" in refused.stderr


def test_every_setting_is_read() -> None:
    """A setting that nobody asks for does nothing, whatever its help says."""
    read = set()
    for path in (REPOSITORY / "alibi_cli").rglob("*.py"):
        if path.parent.name != "runtime":
            read |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    for cls in settings_classes():
        unread = [each.name for each in declared(cls) if each.name not in read]
        assert not unread, (cls.__name__, unread)
    assert "an_invented_setting" not in read


def test_every_option_has_the_name_of_its_setting() -> None:
    for cls in settings_classes():
        for each in declared(cls):
            if each.setting.flags:
                assert each.setting.flags[0].split("/")[0] == option_of(each.name), (cls, each.name)


def test_every_help_stands_alone() -> None:
    """A sentence about the setting, not the end of one that begins with its name."""
    for cls in settings_classes():
        for each in declared(cls):
            words = each.setting.help.split()
            assert words[-1].endswith(".") and words[0] != "Of" and len(words) >= 3, (cls, each.name)


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


def test_a_preset_says_all_that_a_command_can(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("command: eval\ndescription: x\nsettings: {protocol: lm-eval, lengths: 1k}\n")
    assert settings_of(EvaluateSettings, {}, str(tmp_path / "mine.yaml")).protocol == "lm-eval"
    assert settings_of(EvaluateSettings, {"lengths": "8"}, str(tmp_path / "mine.yaml")).lengths == (8,)
    with pytest.raises(alibi.UsageError, match="There is no preset file"):
        settings_of(EvaluateSettings, {}, str(tmp_path / "absent.yaml"))


def test_every_default_and_range_stands_in_settings_alone() -> None:
    """Options and presets are made of them: no Typer option of a command has a default of its own but flags and files."""
    for path in (REPOSITORY / "alibi_cli" / "cli").glob("*_command.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any("takes" in ast.dump(d) for d in node.decorator_list):
                defaults = [ast.literal_eval(default) for default in node.args.defaults]
                assert set(defaults) <= {None, False}, (path.name, node.name)


def test_no_string_of_the_library_names_an_option() -> None:
    for path in (REPOSITORY / "alibi_cli").rglob("*.py"):
        if path.parent.name in ("cli", "runtime") or path.name == "declaration.py":
            continue
        tree = ast.parse(path.read_text())
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                words = node.value.split()
                assert (
                    not any(w.strip("\"'(").startswith("--") and len(w) > 4 for w in words)
                    or "alibi" in words
                    or ("flags" in path.read_text().split(node.value)[0][-40:])
                ), (path, node.value)


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
