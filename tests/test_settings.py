"""Settings: declared once, written as people write them, refused by name."""

import ast
import inspect
from pathlib import Path

import pytest

import alibi_cli as alibi
from alibi_cli.cli.options import option_of
from alibi_cli.settings.conversion import ConvertSettings, PlanSettings
from alibi_cli.settings.declaration import Verb, declared
from alibi_cli.settings.healing import TrainSettings
from alibi_cli.settings.measuring import EvaluateSettings
from alibi_cli.settings.presets import settings_of
from tests.cli.run import alibi_inside, alibi_json
from tests.conftest import REPOSITORY
from tests.models import save_tiny

VERBS = [name for name in alibi.__all__ if name != "__version__" and hasattr(getattr(alibi, name), "__signature__")]


def settings_classes(base: type[Verb] = Verb) -> list[type[Verb]]:
    return [cls for sub in base.__subclasses__() for cls in (sub, *settings_classes(sub))]


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
        ({"sinks": -1}, "sinks", "`sinks` must be between 0 and"),
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


def test_every_whole_number_has_a_maximum() -> None:
    """One that is far too large is a mistake, and is told so where it was made."""
    unbounded = {
        (cls.__name__, each.name)
        for cls in settings_classes()
        for each in declared(cls)
        if each.kind is int and each.setting.maximum is None
    }
    assert {name for _, name in unbounded} == {"seed"}


@pytest.mark.parametrize(("name", "settings"), [("sinks", {}), ("offset", {"policy": "add"})])
def test_a_bias_that_begins_beyond_the_declared_length_is_refused(name: str, settings: dict) -> None:
    for model, length in (("demo-llama", 2048), ("demo-llama", 600)):
        chosen = {**settings, **({} if length == 2048 else {"max_sequence_length": length})}
        with pytest.raises(alibi.UsageError, match=f"`{name}={length}` would leave the declared length, {length}"):
            alibi.plan(model, **{name: length}, **chosen)
        assert alibi.plan(model, **{name: length - 1}, **chosen).max_sequence_length == length


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
