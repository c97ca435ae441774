"""Checkpoints of earlier versions: with their own code and with this one's they are the models that they were.

tests/fixtures/0.1.0 holds two, and what they gave when they were written (make.py there). Bits depend on the processor, so the two
generations of code are compared with each other in bits, on one machine and in one process, and with the record to rounding.
"""

import json
from pathlib import Path

import pytest

from alibi_cli.conversion.verify import verify
from tests.cli.run import alibi
from tests.conftest import REPOSITORY
from tests.python import python

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"
NAMES = ("llama", "toy")
SCRIPT = """
import importlib.util, json, sys, transformers
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
repository, folder, plugin = map(Path, sys.argv[1:])
sys.path.insert(0, str(repository))
spec = importlib.util.spec_from_file_location("make", folder.parent / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
assert type(theirs).__module__.startswith("transformers_modules.") and "alibi_cli" not in sys.modules
of_theirs = make.record(theirs)

from alibi_cli.models.plugins import load_plugins
from alibi_cli.runtime import modeling_alibi
from alibi_cli.runtime.alibi_rewrite import policy_of

assert not load_plugins([plugin])
ours = getattr(modeling_alibi, theirs.config.architectures[0]).from_pretrained(folder)
assert type(ours).__module__ == modeling_alibi.__name__
of_ours, recorded = make.record(ours), load_file(f"{folder}.safetensors")
again = make.record(theirs)  # after another generation of the code was loaded into the process
print(json.dumps({
    "policy": policy_of(ours.config), "named": ours.config.alibi_policy, "sinks": ours.config.alibi_sinks,
    "slopes per layer": [getattr(m, "alibi_slopes") for m in ours.modules() if getattr(m, "alibi_slopes", None)],
    "same bits": {key: torch.equal(of_ours[key], of_theirs[key]) for key in recorded},
    "same bits again": {key: torch.equal(again[key], of_theirs[key]) for key in recorded},
    "differs by": (of_theirs["logits"] - recorded["logits"]).abs().max().item(),
    "greedy": torch.equal(of_theirs["greedy"], recorded["greedy"]),
}))
"""


@pytest.mark.parametrize("name", NAMES)
def test_both_generations_of_code_give_what_was_recorded(name: str) -> None:
    plugin = REPOSITORY / "docs" / "plugin-example" / "toy_family.py"
    result = python("-c", SCRIPT, REPOSITORY, FIXTURES / name, plugin, cwd="/")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["policy"] == "replace" and facts["named"] is None and facts["sinks"] is None
    assert facts["same bits"] == facts["same bits again"] == {"logits": True, "greedy": True}
    assert facts["greedy"] and facts["differs by"] <= 1e-5
    slopes = json.loads((FIXTURES / name / "config.json").read_text())["alibi_slopes"]
    assert facts["slopes per layer"] == (slopes if name == "llama" else [slopes] * 2)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_still_what_was_written(name: str) -> None:
    found = verify(FIXTURES / name)
    assert found.passed and found.written_by == "0.1.0"
    details = {finding.detail for finding in found.findings if finding.file.endswith(".py")}
    assert "of version 0.1.0" in details
    assert "alibi-cli 0.1.0" in alibi("verify", FIXTURES / name).stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_runtime_file_is_noticed(name: str, tmp_path: Path) -> None:
    for path in (FIXTURES / name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert verify(tmp_path).passed
    with (tmp_path / "alibi_attention.py").open("a") as file:
        file.write("\n")
    assert not verify(tmp_path).passed
