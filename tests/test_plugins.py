"""Plug-ins: a family that nobody knew is converted, travels in its checkpoint, and a broken one harms nobody."""

import json
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.cli.run import alibi, alibi_inside, alibi_json
from tests.conftest import REPOSITORY
from tests.environments import environment
from tests.python import python

PLUGIN = REPOSITORY / "docs" / "plugin-example" / "toy_family.py"
TEXTBOOK = """
import sys, json, copy, importlib.util
import torch
sys.path.insert(0, sys.argv[1])
from alibi_cli.models.plugins import load_plugins
load_plugins([__import__("pathlib").Path(sys.argv[2])])
import toy_family
from alibi_cli import apply_alibi
from tests.reference.textbook import textbook_logits, textbook_slopes
torch.set_default_dtype(torch.float64)
stock = toy_family.ToyForCausalLM(toy_family.ToyConfig(vocab_size=61)).eval()
converted = copy.deepcopy(stock)
apply_alibi(converted, 256)
tokens = torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(0))
long = torch.randint(3, 61, (1, 200), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    ours = converted(input_ids=tokens).logits
    converted(input_ids=long)
steep = [1.1 * m for m in textbook_slopes(4)]
print(json.dumps([type(converted).__name__, *((ours - other).abs().max().item() for other in (
    textbook_logits(stock, tokens), textbook_logits(stock, tokens, steep), textbook_logits(stock, tokens, keep_positions=True)))]))
"""
STRANGER = """
import sys, json, torch
from transformers import AutoModelForCausalLM
try:
    import alibi_cli
    raise SystemExit("this environment can import alibi_cli")
except ImportError:
    pass
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = torch.arange(100)[None]
with torch.no_grad():
    logits = model(input_ids=tokens).logits
settings = dict(max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
both = [model.generate(tokens[:, :9], use_cache=flag, **settings) for flag in (True, False)]
model.save_pretrained(sys.argv[2])
with torch.no_grad():
    again = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True)(input_ids=tokens).logits
print(json.dumps([type(model).__name__, torch.equal(*both), torch.equal(logits, again)]))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the toy family, made in a process of its own so that this one does not know the family."""
    folder, demo = tmp_path_factory.mktemp("toy"), str(REPOSITORY / "presets" / "demo-gpt2")
    script = (
        f"import sys; sys.path.insert(0, {str(PLUGIN.parent)!r}); import toy_family, shutil\n"
        f"toy_family.ToyForCausalLM(toy_family.ToyConfig()).save_pretrained({str(folder)!r})\n"
        f"for name in ('tokenizer.json', 'tokenizer_config.json'): shutil.copy({demo!r} + '/' + name, {str(folder)!r})"
    )
    run(script)
    return folder


def run(script: str, *arguments: str | Path) -> str:
    result = python("-c", script, *arguments, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_family_equals_the_textbook_and_controls_do_not() -> None:
    name, same, steep, positions = json.loads(run(TEXTBOOK, REPOSITORY, PLUGIN))
    assert name == "AlibiToyForCausalLM"
    assert same <= 1e-10 and steep > 1e-3 and positions > 1e-3


def test_without_the_plug_in_the_family_is_refused(toy: Path, tmp_path: Path) -> None:
    assert "'toy' is not supported" in alibi("convert", toy, "-o", tmp_path / "out", code=2).stderr


def test_convert_eval_and_a_stranger(toy: Path, tmp_path: Path) -> None:
    report = alibi_json("convert", toy, "-o", tmp_path / "out", "--plugin", PLUGIN)
    assert report["verified"]["passed"] and report["tensors"]["dropped"] == ["model.position_embeddings.weight"]
    travelled = (tmp_path / "out" / "alibi_plugin.py").read_text()
    assert (
        "class ToyForCausalLM" in travelled
        and "from .alibi_policies import" in travelled
        and "from alibi_cli" not in travelled
    )
    results = alibi_json(
        "eval", tmp_path / "out", "--baseline", toy, "--plugin", PLUGIN, "--lengths", "32,64,128", "--max-segments", "3"
    )
    assert [(row["arm"], row["status"]) for row in results["rows"]][:4] == [
        ("full", "ok"), ("full", "ok"), ("full", "out_of_range"), ("truncated", "ok"),
    ]  # fmt: skip
    plain = environment(tmp_path / "plain", "torch", "transformers", "safetensors")
    (tmp_path / "stranger.py").write_text(STRANGER)
    command = [str(plain), "-I", str(tmp_path / "stranger.py"), str(tmp_path / "out"), str(tmp_path / "again")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == ["AlibiToyForCausalLM", True, True]


def test_the_table_of_policies_shows_it() -> None:
    table = alibi_json("inspect", "policies", "--plugin", PLUGIN)
    assert {row["module"] for row in table["toy_family"]} == {"ToyAttention", "ToyModel"}


BROKEN = ["import nonsense_that_is_absent", "def broken(:", "raise RuntimeError('no')", "import sys; sys.exit(0)"]


@pytest.mark.parametrize("content", [*BROKEN, None])
def test_a_broken_plug_in_that_was_asked_for_is_refused(content: str | None, tmp_path: Path) -> None:
    """Without it something else would be done than was asked for."""
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    result = alibi_inside("convert", "demo-gpt2", "--dry-run", "--plugin", tmp_path / "mine.py", code=2)
    assert "--plugin" in result.stderr and "mine.py cannot be loaded" in result.stderr and result.stdout == ""
    assert result.stderr.count("\n") == 1


NAMES = """
import sys, csv, json
from pathlib import Path
from alibi_cli import UsageError
from alibi_cli.models.plugins import load_plugins
from alibi_cli.runtime.alibi_plugin import MODULES
folder, said = Path(sys.argv[1]), []
load_plugins([folder / "a" / "mine.py", folder / "a" / "mine.py"])
load_plugins([folder / "b" / ".." / "a" / "mine.py"])
for name in ("b/mine.py", "a/json.py", "a/csv.py", "a/colorsys.py", "absent/json.py", "a/broken.py"):
    try:
        load_plugins([folder / name])
    except UsageError as error:
        said.append(str(error))
print(json.dumps([len(MODULES), (folder / "ran").read_text(), said, sys.modules["csv"] is csv and sys.modules["json"] is json,
    "broken" in sys.modules]))
"""


def test_each_file_is_run_once_and_none_takes_the_place_of_another_module(tmp_path: Path) -> None:
    for name in ("a/mine", "b/mine", "a/json", "a/csv", "a/colorsys"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')")
    (tmp_path / "a" / "broken.py").write_text("1 / 0")
    loaded, ran, said, untouched, broken = json.loads(run(NAMES, tmp_path))
    assert loaded == 1 and ran == "a/mine " and untouched and not broken
    assert f"mine from {tmp_path / 'a' / 'mine.py'}" in said[0]
    assert all("has the name of another module" in line and "Rename the file" in line for line in said[:4])
    assert "there is no such file" in said[4] and "ZeroDivisionError" in said[5] and len(said) == 6


def test_an_installed_plug_in_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """A package as pip leaves it, on a path of its own; beside it one that cannot be imported."""
    for name, module in (("good", "toy_family"), ("bad", "absent_module")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[alibi.plugins]\n{name} = {module}\n")
    (tmp_path / "toy_family.py").write_text(PLUGIN.read_text())
    result = alibi("inspect", "policies", "--json", env={"PYTHONPATH": str(tmp_path)})
    assert "toy_family" in json.loads(result.stdout)
    assert "bad" in result.stderr and "was skipped" in result.stderr


HELIUM = """
import sys, json, copy, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from transformers import HeliumConfig, HeliumForCausalLM
from alibi_cli.silence import silence_libraries
silence_libraries()
from alibi_cli.models.plugins import load_plugins
load_plugins([Path(sys.argv[2])])
from alibi_cli import apply_alibi
from tests.models import COMMON, GROUPED
from tests.reference.textbook import textbook_logits, textbook_slopes
stock = HeliumForCausalLM(HeliumConfig(**COMMON, **GROUPED)).eval()
stock.save_pretrained(sys.argv[3])
stock = stock.double()
converted = copy.deepcopy(stock)
apply_alibi(converted, 256)
tokens = torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    ours = converted(input_ids=tokens).logits
steep = [1.1 * m for m in textbook_slopes(6)]
print(json.dumps([(ours - textbook_logits(stock, tokens, slopes)).abs().max().item() for slopes in (None, steep)]))
"""


def test_the_page_on_adding_a_family_works_to_the_letter(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "adding-a-family.md").read_text()
    block = textwrap.dedent(page.split("```python\n")[1].split("```")[0])
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) == 2 and "Two lines:" in page
    (tmp_path / "helium.py").write_text(block)
    same, steep = json.loads(run(HELIUM, REPOSITORY, tmp_path / "helium.py", tmp_path / "source"))
    assert same <= 1e-10 and steep > 1e-3
    report = alibi_json("convert", tmp_path / "source", "-o", tmp_path / "out", "--plugin", tmp_path / "helium.py")
    assert report["verified"]["passed"] and report["model_type"] == "alibi_helium"
    assert (tmp_path / "out" / "alibi_plugin.py").read_text() == block.replace("alibi_cli.runtime.", ".")


EVERY_SECOND = """
import sys, json, copy, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from alibi_cli.silence import silence_libraries
silence_libraries()
from alibi_cli.models.plugins import load_plugins
load_plugins([Path(sys.argv[2])])
from alibi_cli import apply_alibi
from tests.checkpoint.helpers import convert
from tests.models import save_tiny, tiny_model
from tests.reference.textbook import textbook_logits, textbook_slopes
stock = tiny_model("llama")
converted = copy.deepcopy(stock)
apply_alibi(converted, 256, policy="every-second", sinks=2)
tokens = torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    ours = converted(input_ids=tokens).logits
press = textbook_slopes(6)
print(json.dumps([(ours - textbook_logits(stock, tokens, slopes, keep_positions=True, sinks=sinks)).abs().max().item()
    for slopes, sinks in (([press, [0.0] * 6], 2), ([press, press], 2), ([press, [0.0] * 6], 0))]))
report = convert(save_tiny("llama", Path(sys.argv[3])), Path(sys.argv[4]), policy="every-second", sinks=2)
print(json.dumps([report.verified.passed, report.policy_name, report.sinks]))
"""
WITHOUT_THIS_PACKAGE = """
import sys, json, torch
sys.modules["alibi_cli"] = None
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokens = torch.arange(100)[None]
settings = dict(max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
both = [model.generate(tokens[:, :9], use_cache=flag, **settings) for flag in (True, False)]
model.save_pretrained(sys.argv[2])
again = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True).eval()
with torch.no_grad():
    same = torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)
layers = [getattr(layer.self_attn, "alibi_slopes", None) is not None for layer in again.model.layers]
config, rotation = again.config, type(again.model.rotary_emb).__name__
print(json.dumps([config.alibi_policy, config.alibi_sinks, torch.equal(*both), same, layers, rotation]))
"""


def test_a_policy_of_its_own_works_to_the_letter_and_travels(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "adding-a-family.md").read_text()
    block = page.split("## A policy of your own")[1].split("```python\n")[1].split("```")[0]
    plugin = tmp_path / "every_second.py"
    plugin.write_text(block)
    output = run(EVERY_SECOND, REPOSITORY, plugin, tmp_path / "source", tmp_path / "out")
    (same, both_layers, no_sinks), report = map(json.loads, output.splitlines()[-2:])
    assert same <= 1e-10 and both_layers > 1e-3 and no_sinks > 1e-3
    assert report == [True, "every-second", 2]
    assert (tmp_path / "out" / "alibi_plugin.py").read_text() == block.replace("alibi_cli.runtime.", ".")
    found = json.loads(run(WITHOUT_THIS_PACKAGE, tmp_path / "out", tmp_path / "again").splitlines()[-1])
    assert found == ["every-second", 2, True, True, [True, False], "LlamaRotaryEmbedding"]
    assert (tmp_path / "again" / "alibi_plugin.py").read_text() == (tmp_path / "out" / "alibi_plugin.py").read_text()
    assert alibi("verify", tmp_path / "out").returncode == 0


def test_a_checkpoint_without_its_plug_in_says_which_policy_is_missing(tmp_path: Path) -> None:
    from alibi_cli import apply_alibi
    from alibi_cli.runtime.alibi_rewrite import rewrite
    from tests.models import tiny_model

    model = tiny_model("llama")
    with pytest.raises(ValueError, match="There is no policy 'every-second'; there are replace, add"):
        apply_alibi(model, 64, policy="every-second")
    apply_alibi(model, 64)
    model.config.alibi_policy = "every-second"
    with pytest.raises(ValueError, match="There is no policy 'every-second'"):
        rewrite(model)
