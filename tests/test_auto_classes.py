"""With alibi_cli imported, converted checkpoints load by the Auto classes without trust_remote_code; without it they do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.helpers import convert
from tests.conftest import REPOSITORY
from tests.models import save_tiny
from tests.python import python

LOAD = """
import sys, json, torch
{imports}
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
folder = sys.argv[1]
tokens = torch.arange(5, 60)[None]
found = []
for how in {ways}:
    cls = get_class_from_dynamic_module("modeling_alibi.AlibiLlamaForCausalLM", folder) if how == "carried" else AutoModelForCausalLM
    model = cls.from_pretrained(folder, **(dict() if how == "carried" else dict(trust_remote_code=how))).eval()
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    found.append((type(model).__name__, type(model).__module__.split(".")[0], logits.double().sum().item()))
    if how != "carried":
        assert type(AutoTokenizer.from_pretrained(folder, trust_remote_code=how)("abc").input_ids) is list
        assert type(AutoModel.from_pretrained(folder, trust_remote_code=how)).__name__ == "AlibiLlamaModel"
model.save_pretrained(sys.argv[2])
print(json.dumps(found))
"""
BEFORE, AFTER = "import alibi_cli", "import transformers, transformers.models.auto.configuration_auto\nimport alibi_cli"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    convert(save_tiny("llama", folder / "source"), folder / "out", policy="add", sinks=2)
    return folder / "out"


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    return python("-c", script, *map(str, words), cwd=REPOSITORY, fresh=True)


@pytest.mark.parametrize("imports", [BEFORE, AFTER], ids=["before transformers", "after transformers"])
def test_both_ways_give_the_same_and_one_after_the_other_is_safe(imports: str, converted: Path, tmp_path: Path) -> None:
    result = run(LOAD.format(imports=imports, ways=[None, "carried", True, False]), converted, tmp_path / "saved")
    assert result.returncode == 0, result.stderr
    installed, carried, *again = json.loads(result.stdout.splitlines()[-1])
    assert again == [installed] * 2 and installed[:2] == ["AlibiLlamaForCausalLM", "alibi_cli"]
    assert carried[:2] == ["AlibiLlamaForCausalLM", "transformers_modules"] and carried[2] == installed[2]
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["model_type"] == "alibi_llama" and (tmp_path / "saved" / "modeling_alibi.py").is_file()


def test_without_the_package_it_is_refused(converted: Path, tmp_path: Path) -> None:
    result = run(LOAD.format(imports="", ways=[False]), converted, tmp_path / "saved")
    assert result.returncode != 0 and "trust_remote_code" in result.stderr


def test_what_is_no_converted_family_stays_unknown() -> None:
    script = """
import alibi_cli
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
print([name in CONFIG_MAPPING for name in ("alibi_nonsense", "alibi_deberta", "nonsense", 3, "alibi_bloom")])
print("alibi_bloom" in list(CONFIG_MAPPING))
"""
    asked, made = run(script).stdout.splitlines()
    assert asked == "[False, False, False, False, True]" and made == "False"  # asking makes nothing


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    script = "import sys, alibi_cli; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_encoder_and_its_head(tmp_path: Path) -> None:
    convert(save_tiny("bert", tmp_path / "source"), tmp_path / "out")
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "AlibiBertForMaskedLM" and type(model).__module__.startswith("alibi_cli")
    with torch.no_grad():
        assert model(input_ids=torch.arange(5, 40)[None]).logits.isfinite().all()
