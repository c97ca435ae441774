"""The command line as a contract: speed of the start, streams, exit codes, pictures, presets, documentation."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alibi_cli import AlibiError, get_slopes
from alibi_cli.settings.presets import load_preset, parse_preset, preset_names, presets_folder
from tests.cli.run import alibi, alibi_inside, alibi_json
from tests.conftest import REPOSITORY
from tests.reporting.helpers import BASE, flat, results_of

HEAVY = {"torch", "transformers", "datasets", "numpy", "matplotlib", "safetensors", "huggingface_hub", "yaml"}
TYPER = {"typer", "annotated_doc", "shellingham"}


def imported(arguments: list[str]) -> set[str]:
    """Modules that a command has loaded by its end, without their submodules."""
    script = "\n".join(
        [
            "import sys, runpy",
            "sys.argv = ['alibi', *sys.argv[1:]]",
            "try: runpy.run_module('alibi_cli')",
            "except SystemExit: pass",
            "print('\\0'.join(sys.modules), file=sys.stderr)",
        ]
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    ).stderr.split("\0")
    return {name.partition(".")[0].strip() for name in loaded}


@pytest.mark.parametrize(
    "arguments", [["eval", "--help"], ["convert", "--help"], ["bench", "attention", "--help"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    assert not HEAVY & imported(arguments)


def test_the_two_quickest_commands_import_typer_and_nothing_else() -> None:
    """The list of commands is plain text, and JSON needs no Rich."""
    ours = {"alibi_cli", "__main__", "__mp_main__"}
    for arguments in (["--help"], ["inspect", "slopes", "--json"]):
        others = imported(arguments) - sys.stdlib_module_names - ours - TYPER
        assert {name for name in others if not name.startswith("_")} == set()


def test_a_report_of_what_lies_there_already_needs_no_model(tmp_path: Path) -> None:
    """Results are data: what reads and shows them does not read what made them."""
    results_of({"base": BASE, "a": flat(9)}, "base").save(tmp_path / "r.json")
    for words in ([], ["--output", str(tmp_path / "r.html")], ["--format", "latex"]):
        assert not {"torch", "transformers", "datasets"} & imported(["report", str(tmp_path / "r.json"), *words])


def test_what_a_checkpoint_consists_of_is_checked_without_a_model() -> None:
    checkpoint = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "llama"
    assert not {"torch", "transformers", "datasets"} & imported(["verify", str(checkpoint)])


def test_the_guard_sees_what_is_imported() -> None:
    assert {"rich", "yaml"} <= imported(["inspect", "presets"]) and "torch" in imported(["inspect", "policies"])


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "slopes", "--json"]])
def test_light_commands_answer_in_half_a_second(arguments: list[str]) -> None:
    """The best of several, in processor time: a busy machine must not fail it, an import of torch (over a second) must."""
    best = float("inf")
    for _ in range(5):
        before = os.times()
        alibi(*arguments)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.5


def test_slopes_as_json_and_as_a_table() -> None:
    assert alibi_json("inspect", "slopes", "--heads", "6", run=alibi_inside) == {
        "n_heads": 6,
        "scheme": "press",
        "max_bias": 8.0,
        "slopes": get_slopes(6),
    }
    table = alibi_inside("inspect", "slopes", "--heads", "8").stdout
    assert "0.00390625" in table and "1178.9" in table and "-8" in table
    assert (
        alibi_json("inspect", "slopes", "--heads", "4", "--max-bias", "16", run=alibi_inside)["slopes"][-1] == 2.0**-16
    )


def test_slopes_of_checkpoints(tiny_gpt2: Path, tmp_path: Path) -> None:
    assert alibi_json("inspect", "slopes", tiny_gpt2, run=alibi_inside)["slopes"] == get_slopes(6)
    layers = [[0.5] * 6, [0.25] * 6]
    (tmp_path / "s.json").write_text(json.dumps(layers))
    alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out", "--slopes", tmp_path / "s.json", "--no-verify")
    assert alibi_json("inspect", "slopes", tmp_path / "out", run=alibi_inside) == {
        "n_heads": 6,
        "scheme": "checkpoint",
        "max_bias": None,
        "slopes": layers,
    }
    assert "layer" in alibi_inside("inspect", "slopes", tmp_path / "out").stdout


def test_what_should_be_read_is_said_beside_json_too(tiny_gpt2: Path, tmp_path: Path) -> None:
    for options in ([], ["--json"]):
        said = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "out", "--force", "--no-verify", *options).stderr
        assert "A pretrained model usually loses most of its quality" in said
        assert ("Next: " in said) == ("Publish: " in said) == (options == [])


def test_tables_do_not_shorten_numbers_in_a_pipe() -> None:
    table = alibi("inspect", "slopes", "--heads", "257", env={"COLUMNS": "20"}).stdout
    assert "…" not in table and all(f"{slope:.10g}" in table for slope in get_slopes(257))


def test_bias_pictures(tmp_path: Path) -> None:
    drawn = alibi_inside("inspect", "bias", "--heads", "2", "--length", "8").stdout.splitlines()
    assert drawn[1].startswith("@@ ") and drawn[8].endswith("@@")
    symmetric = alibi_inside("inspect", "bias", "--heads", "1", "--length", "8", "--symmetric").stdout.splitlines()
    assert symmetric[1] == symmetric[8][::-1]
    alibi_inside("inspect", "bias", "--heads", "6", "--length", "300", "-o", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "must end in" in alibi_inside("inspect", "bias", "-o", tmp_path / "b.nonsense", code=2).stderr


def test_policies_table_names_every_family_and_where_it_is_written() -> None:
    table = alibi_json("inspect", "policies", run=alibi_inside)
    assert {"gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "gemma", "bert", "roberta"} <= set(
        table
    )
    written = {Path(row["origin"].rpartition(":")[0]).name for rows in table.values() for row in rows}
    assert written == {"alibi_positions.py", "alibi_modules.py"}
    assert {row["verified_against"] for rows in table.values() for row in rows} == {"float64 reference"}
    assert "GPT2Attention" in alibi_inside("inspect", "policies").stdout
    page = (REPOSITORY / "docs" / "supported-models.md").read_text()
    assert re.findall(r"^\| (\w+) \| .*\| yes \|", page, re.MULTILINE) == sorted(table)
    assert "fifty-one families" in (REPOSITORY / "README.md").read_text() and len(table) == 51


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_its_command_takes_its_settings(name: str) -> None:
    command, description, settings = load_preset(name)
    assert description
    help_text = alibi(command, "--help", env={"COLUMNS": "200"}).stdout
    assert all(f"--{key.replace('_', '-')}" in help_text for key in settings)
    assert f"--preset {name}" in (presets_folder() / f"{name}.yaml").read_text().split("command:")[0]


def test_a_preset_is_applied_and_options_win(tiny_gpt2: Path) -> None:
    _, _, settings = load_preset("long-context")
    plan = alibi_json("inspect", "plan", tiny_gpt2, "--preset", "long-context", run=alibi_inside)
    assert plan["max_sequence_length"] == settings["max_sequence_length"] and plan["slopes"] == get_slopes(6, 16)
    assert (
        alibi_json(
            "inspect", "plan", tiny_gpt2, "--preset", "long-context", "--max-sequence-length", "99", run=alibi_inside
        )["max_sequence_length"]
        == 99
    )
    assert "is for `alibi eval`" in alibi_inside("convert", tiny_gpt2, "--preset", "demo", "--dry-run", code=2).stderr
    assert "Did you mean demo" in alibi_inside("eval", "--preset", "demos", code=2).stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("command: eval\ndescription: x\nsettings: {lenghts: '8'}", "lenghts"),
        ("command: eval\ndescription: x\nsettings: {protocol: backwards}", "protocol"),
        ("command: fly\ndescription: x\nsettings: {}", "fly"),
        ("command: eval\nsettings: {}", "description"),
        ("- 1", "keys"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_bad_presets_are_named(text: str, says: str) -> None:
    with pytest.raises(AlibiError, match=says) as error:
        parse_preset(text, "mine.yaml")
    assert error.value.exit_code == 2
    if "lenghts" in text:
        assert error.value.hint == "Did you mean lengths?"


@pytest.mark.parametrize("name", ["../presets/demo", "/etc/passwd", "demo.yaml", "demo\0", ""])
def test_a_preset_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(AlibiError, match="There is no preset") as error:
        load_preset(name)
    assert error.value.exit_code == 2


def test_exit_codes_and_streams() -> None:
    assert alibi("nonsense", code=2).stdout == ""
    assert alibi(code=2).returncode == 2
    assert alibi("inspect", "slopes", "--heads", "0", code=2).stdout == ""
    assert alibi("--version").stdout.startswith("alibi-cli ")
    result = alibi("convert", "[bold]/absent", code=2)
    assert "[bold]/absent" in result.stderr and "Traceback" not in result.stderr
    assert "Traceback" in alibi("convert", "./absent", env={"ALIBI_DEBUG": "1"}, code=1).stderr


def test_interrupting_is_exit_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "alibi_cli", "eval"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(8)  # well inside the scoring
    process.send_signal(2)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stdout == ""
    assert stderr.removesuffix("With --output, finished rows are kept.\n") == "Error: Interrupted.\n"


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
wanted, done = sys.argv.pop(1), []
def hook(event, arguments):
    if event == "import" and arguments[0] == wanted and not done:
        done.append(1)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
from alibi_cli.cli import main
main()
"""


@pytest.mark.parametrize(
    "module",
    [
        "typer",
        "rich.console",
        "alibi_cli.settings.conversion",
        "huggingface_hub",
        "numpy",
        "torch",
        "torch.nn",
        "transformers",
    ],
)
def test_interrupting_while_modules_are_loaded_is_one_line(module: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, "convert", str(tiny_gpt2), "-o", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.removesuffix("Nothing was written.\n") == "Error: Interrupted.\n"
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial*"))


def test_every_file_has_a_name_of_its_own() -> None:
    """So that a name says which file is meant; the map of docs/architecture.md is made of what is there."""
    names = [path.name for path in (REPOSITORY / "alibi_cli").rglob("*.py") if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_no_module_is_a_second_place_that_prints() -> None:
    for path in (REPOSITORY / "alibi_cli").rglob("*.py"):
        assert path.name == "output.py" or not re.search(r"(?<![\w.])print\(", path.read_text()), path
