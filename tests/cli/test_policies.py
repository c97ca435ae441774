"""--policy, --sinks and --offset on the command line: what is refused, what is said, what is written."""

import json
import shutil
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from alibi_cli.models.families import family_policies
from alibi_cli.settings.presets import load_preset
from alibi_cli.slopes import get_slopes
from tests.cli.run import alibi, alibi_here
from tests.models import sample_tokens

pytestmark = pytest.mark.usefixtures("quick_calibration")

ADD = ("--policy", "add")
CALIBRATED = ("--slopes", "calibrated")


def has(facts: str, name: str, value: str) -> bool:
    return any(line.split(maxsplit=1) == [name, value] for line in facts.splitlines())


@pytest.mark.parametrize(
    ("family", "options", "says", "hint"),
    [
        ("gpt2", ADD, "position embeddings of {m} end at 24 tokens. Use policy replace.", None),
        ("ctrl", ADD, "end at 24 tokens. Use policy replace.", None),
        ("marian", ADD, "end at 24 tokens. Use policy replace.", None),
        ("roberta", ADD, "end at 22 tokens. Use policy replace.", None),  # of whose rows two are never used
        ("gpt2", (*ADD, *CALIBRATED), "end at 24 tokens. Use policy replace.", None),
        ("bloom", ADD, "{m} has ALiBi already, so there is nothing to add; policy replace changes its slopes.", None),
        ("bloom", ("--sinks", "2"), "computes ALiBi itself, which knows no sinks", None),
        ("mpt", ("--sinks", "2", *CALIBRATED), "computes ALiBi itself, which knows no sinks", None),
        ("llama", ("--policy", "ad"), "There is no policy 'ad'; there are replace, add.", "Did you mean add?"),
        ("llama", ("--policy", "rep", *CALIBRATED, "--calibrate", "reach"), "There is no policy 'rep'", None),
        ("llama", ("--offset", "8"), "policy replace is textbook ALiBi", None),
        ("llama", (*CALIBRATED, "--offset", "8"), "textbook ALiBi", None),
        ("llama", (*CALIBRATED, "--horizon", "8"), "textbook ALiBi", None),
        ("llama", ("--horizon", "8"), "--horizon needs --slopes calibrated", None),
        ("llama", (*ADD, "--horizon", "8"), "--horizon needs --slopes calibrated", None),
        ("llama", (*ADD, "--calibration-length", "80"), "--calibration-length needs --slopes calibrated", None),
        ("llama", (*CALIBRATED, "--calibrate", "reach"), "replace is not calibrated by reach", None),
        ("llama", (*ADD, *CALIBRATED, "--calibrate", "look-back"), "add is not calibrated by look-back", None),
        ("llama", (*ADD, *CALIBRATED, "--calibrate", "distil+norms"), "but by reach or distil", None),
        ("llama", (*ADD, *CALIBRATED, "--horizon", "25"), "beyond the trained length, 24", None),
        ("llama", (*ADD, *CALIBRATED, "--calibration-length", "24"), "do not reach beyond 24", None),
        ("llama", (*CALIBRATED, "--calibration-length", "25"), "longer than the original was trained for, 24", None),
        ("llama", (*ADD, *CALIBRATED, "--offset", "25"), "leaves what lies beyond 24", None),
        ("falcon", (*ADD, *CALIBRATED), "does not show its queries and keys", "Give slopes with --slopes FILE"),
        ("t5", (*ADD, *CALIBRATED), "is an encoder-decoder", None),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_any_work(
    family, options, says, hint, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr("alibi_cli.models.loading.load_model", None)
    monkeypatch.setattr("alibi_cli.calibration.of_source.load_model", None)
    before = {path.name for path in tmp_path.iterdir()}
    for command in (["convert", sources[family], "-o", tmp_path / "out"], ["inspect", "plan", sources[family]]):
        result = alibi_here(*command, *options)
        assert result.exit_code == 2 and result.stdout == "", result.output
        assert says.format(m=sources[family]) in result.error.message and "\n" not in result.error.message
        assert (hint or "") in (result.error.hint or "")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_the_error_is_one_line(sources, tmp_path):
    result = alibi("convert", sources["gpt2"], "--policy", "add", "-o", tmp_path / "out", code=2)
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1, result.stderr


@pytest.mark.parametrize("command", [("convert", "--dry-run"), ("inspect", "plan")])
def test_a_plan_shows_policy_sinks_and_offset(command, sources):
    first, last = command
    words = [first, sources["llama"], last] if first == "convert" else [first, last, sources["llama"]]
    shown = alibi_here(*words, *ADD, "--sinks", "2", "--offset", "9").stdout
    assert has(shown, "policy", "add") and has(shown, "sinks", "the first 2 tokens of a document")
    plan = json.loads(alibi_here(*words, *ADD, "--sinks", "2", "--offset", "9", "--json").stdout)
    assert (plan["policy_name"], plan["sinks"], plan["offsets"]) == ("add", 2, [9.0] * 6)
    assert plan["policy"] == "llama" and plan["slopes"] == get_slopes(6)
    plain = json.loads(alibi_here(*words, "--json").stdout)
    assert (plain["policy_name"], plain["sinks"], plain["offsets"]) == ("replace", 0, None)
    assert has(alibi_here(*words).stdout, "sinks", "none")


def test_a_plan_does_not_claim_to_know_what_calibration_will_find(sources):
    words = ("inspect", "plan", sources["llama"], *ADD, *CALIBRATED)
    assert has(alibi_here(*words).stdout, "sinks", "chosen by calibration")
    plan = json.loads(alibi_here(*words, "--json").stdout)
    assert plan["slopes"] is plan["sinks"] is plan["offsets"] is None
    assert plan["slopes_scheme"] == "calibrated, reach"
    assert json.loads(alibi_here(*words, "--sinks", "4", "--json").stdout)["sinks"] == 4
    assert json.loads(alibi_here(*words, "--sinks", "0", "--json").stdout)["sinks"] == 0


def test_the_table_of_policies_says_which_family_has_which():
    table = json.loads(alibi_here("inspect", "policies", "--json").stdout)
    for name in ("replace", "add"):
        families = {family for family, rows in table.items() if name in {row["policy_name"] for row in rows}}
        assert families == set(family_policies(name))
    assert {"modernbert", "esm", "falcon", "gptj", "codegen", "t5", "llama"} <= set(family_policies("add"))
    assert not {"gpt2", "bert", "ctrl", "bart", "bloom", "mpt"} & set(family_policies("add"))
    lines = alibi_here("inspect", "policies").stdout.splitlines()
    assert lines[0].split()[:2] == ["family", "policy"]
    shown = {tuple(line.split()[:2]) for line in lines[1:]}
    assert {("llama", "add"), ("llama", "replace"), ("gpt2", "replace")} <= shown and ("gpt2", "add") not in shown


BETTER = {
    "llama": "--policy add --slopes calibrated",
    "gpt2": " --slopes calibrated",
    "falcon": " --slopes calibrated",  # under add its slopes cannot be found
    "t5": "--policy add",
    "bart": None,
}


@pytest.mark.parametrize("family", BETTER)
def test_plain_surgery_names_a_better_command_that_exists(family, sources, tmp_path):
    result = alibi_here("convert", sources[family], "-o", tmp_path / "out", "--no-verify")
    line = next(line for line in result.stderr.splitlines() if "loses most of its quality" in line)
    if BETTER[family] is None:
        assert "Better:" not in line
        return
    assert line.endswith(f"alibi convert {sources[family]} {BETTER[family].strip()}")
    assert ("--policy" in line) == ("--policy" in BETTER[family])
    again = line.split("Better: alibi ")[1].split()
    assert alibi_here(*again, "--dry-run").exit_code == 0


def test_others_are_not_told_of_plain_surgery(sources, tmp_path, text):
    (tmp_path / "s.json").write_text(json.dumps([0.1] * 6))
    for index, (family, options) in enumerate(
        [
            ("llama", ADD),
            ("llama", ("--slopes", tmp_path / "s.json")),
            ("llama", (*CALIBRATED, "--calibrate", "look-back", *text)),
            ("llama", (*ADD, *CALIBRATED, *text)),
            ("bloom", ()),
        ]
    ):
        result = alibi_here("convert", sources[family], "-o", tmp_path / str(index), "--no-verify", *options)
        assert result.exit_code == 0 and "loses most" not in result.stderr, (family, options, result.stderr)


def test_a_preset_may_say_all_of_it(sources, tmp_path, monkeypatch):
    folder = tmp_path / "presets"
    folder.mkdir()
    chosen = {"policy": "add", "slopes": "calibrated", "calibrate": "distil", "sinks": 3, "offset": 5, "horizon": 12}
    lines = [f"  {key}: {value}" for key, value in {**chosen, "calibration_length": 40}.items()]
    (folder / "mine.yaml").write_text("\n".join(["command: convert", "description: x", "settings:", *lines]))
    monkeypatch.setattr("alibi_cli.settings.presets.presets_folder", lambda: folder)
    plan = json.loads(alibi_here("inspect", "plan", sources["llama"], "--preset", "mine", "--json").stdout)
    assert plan["slopes_scheme"] == "calibrated, distil" and plan["policy_name"] == "add" and plan["sinks"] == 3
    settings = []
    monkeypatch.setattr(
        "alibi_cli.conversion.convert.calibrate_source",
        lambda *a: settings.append(a[2]) or (_ for _ in ()).throw(KeyError),
    )
    with pytest.raises(KeyError):
        alibi_here("convert", sources["llama"], "-o", tmp_path / "out", "--preset", "mine", "--sinks", "1")
    assert {key: getattr(settings[0], key) for key in chosen} == {**chosen, "sinks": 1}
    assert settings[0].calibration_length == 40
    (folder / "mine.yaml").write_text("command: convert\ndescription: x\nsettings: {policy: add, calibrate: guess}")
    result = alibi_here("inspect", "plan", sources["llama"], "--preset", "mine")
    assert result.exit_code == 2 and "calibrate" in result.error.message


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_the_preset_keep(family, sources, tmp_path, text):
    command, description, settings = load_preset("keep")
    assert (command, settings) == (
        "convert",
        {"policy": "add", "slopes": "calibrated"},
    ) and "rotation stays" in description
    out = tmp_path / "kept"
    result = alibi_here("convert", sources[family], "-o", out, "--preset", "keep", "--json", *text)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["policy_name"] == "add" and report["slopes_scheme"] == "calibrated, reach"
    assert report["verified"]["passed"] and report["offsets"] == [[24.0] * 6] * 2
    assert alibi_here("verify", out).exit_code == 0
    assert alibi_here("convert", sources["gpt2"], "--preset", "keep").exit_code == 2
    kept, original = (AutoModelForCausalLM.from_pretrained(f, trust_remote_code=True) for f in (out, sources[family]))
    with torch.no_grad():
        difference = kept(input_ids=sample_tokens(2, 24)).logits - original(input_ids=sample_tokens(2, 24)).logits
    assert difference.abs().max() < 1e-5


def test_one_sink_is_a_token(sources, tmp_path):
    out = tmp_path / "out"
    result = alibi_here("convert", sources["llama"], "-o", out, *ADD, "--sinks", "1")
    assert "the first token of a document" in result.stdout and result.exit_code == 0
    assert "except those of the first token of a document" in " ".join((out / "README.md").read_text().split())


@pytest.mark.parametrize(("policy", "method"), [("add", "reach"), ("add", "distil"), ("replace", "look-back")])
def test_sinks_land_everywhere_and_verify_compares(policy, method, sources, tmp_path, text, monkeypatch):
    module = "added" if policy == "add" else "replaced"
    monkeypatch.setattr(f"alibi_cli.calibration.{module}.choose_sinks", lambda *_: 2)
    source, out = sources["llama"], tmp_path / "out"
    options = ("--policy", policy, *CALIBRATED, "--calibrate", method, *text)
    result = alibi_here("convert", source, "-o", out, *options)
    assert result.exit_code == 0 and "the first 2 tokens of a document" in result.stdout
    assert not (tmp_path / "out.calibration").exists()
    config, facts = (json.loads((out / name).read_text()) for name in ("config.json", "alibi.json"))
    assert config["alibi_sinks"] == facts["sinks"] == facts["calibration"]["sinks"] == 2
    card = " ".join((out / "README.md").read_text().split())
    assert "| attention sinks | 2" in card and "except those of the first 2 tokens of a document" in card
    assert f"| policy | {policy} |" in card
    if policy == "add":
        assert facts["offsets"] == config["alibi_offsets"] and config["alibi_policy"] == "add"
        assert "Its rotary position embedding is still there, unchanged: this is not textbook ALiBi." in card
        assert "instead of" not in card and "replaced" not in card and "expect a higher perplexity" not in card
        assert "from a distance of" in result.stdout
        assert ("KL to teacher" in result.stdout) == (method == "distil")
    else:
        assert "still there" not in card and "alibi_offsets" not in config and "alibi_policy" not in config
        assert "KL to original" in result.stdout and "expect a higher perplexity" in card
    assert config["rope_parameters"] == json.loads((source / "config.json").read_text())["rope_parameters"]
    assert alibi_here("verify", out).exit_code == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (source, out))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) and before.keys() == after.keys()
    assert config.get("alibi_sink_distance") == facts["sink_distance"] == (24 if policy == "add" else None)
    assert ("as if they were at most 24 tokens away" in card) == (policy == "add")
    other = {
        "alibi_sinks": 3,
        "alibi_sink_distance": 7,
        "alibi_policy": "replace" if policy == "add" else "add",
        "alibi_offsets": [1.0] * 6,
    }
    for key, value in other.items():
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(out, tmp_path / "changed")
        content = json.dumps({**config, key: value})
        (tmp_path / "changed" / "config.json").write_text(content)
        files = {**facts["files"], "config.json": sha256(content.encode()).hexdigest()}  # who changes both
        (tmp_path / "changed" / "alibi.json").write_text(json.dumps({**facts, "files": files}))
        name = key.removeprefix("alibi_") + ("_name" if key == "alibi_policy" else "")
        result = alibi_here("verify", tmp_path / "changed", "--json")
        found = {finding["file"]: finding for finding in json.loads(result.stdout)["findings"]}
        assert result.exit_code == 1 and found["config.json"]["detail"] == f"{name} is not what alibi.json says"


@pytest.mark.parametrize("layers", [False, True])
def test_slopes_of_a_file_with_offset_and_sinks(layers, sources, tmp_path):
    slopes = [[0.01 * (head + 1 + 6 * layer) for head in range(6)] for layer in range(2)] if layers else [0.3] * 6
    (tmp_path / "s.json").write_text(json.dumps(slopes))
    options = (*ADD, "--slopes", tmp_path / "s.json", "--offset", "7", "--sinks", "2")
    result = alibi_here("convert", sources["llama"], "-o", tmp_path / "out", *options, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["slopes"] == slopes and report["offsets"] == [7.0] * 6 and report["sinks"] == 2
    assert report["verified"]["passed"] and report["slopes_scheme"] == "file s.json"
    assert alibi_here("verify", tmp_path / "out").exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    found = [(layer.self_attn.alibi_slopes, layer.self_attn.alibi_offsets) for layer in model.model.layers]
    assert found == [(slopes[i] if layers else slopes, [7.0] * 6) for i in range(2)]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "−m·max(0, |i−j| − o) with o = 7 tokens" in card
