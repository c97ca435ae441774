"""The oldest and the newest transformers 5, `python -O`, and this package beside the oldest: each in a process of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.ecosystem.checkpoints import Checkpoint, apart, ids_of, text_tokens

SCRIPT = """
import json, sys, transformers
{imports}
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch

found = []
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, **{options}).eval()
    tokens = torch.tensor([json.loads(sys.stdin.readline())] if not found else tokens.tolist())
    with torch.no_grad():
        logits = model(input_ids=tokens).logits.double().log_softmax(-1)
    cached = model.generate(tokens[:, :20], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    whole = model.generate(tokens[:, :20], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=False)
    found.append(logits[0].tolist())
    same = torch.equal(cached, whole)
    text = AutoTokenizer.from_pretrained(folder, **{options})("abc").input_ids
print(json.dumps([transformers.__version__, type(model).__module__.split(".")[0], __debug__, same, text, found]))
"""
CARRIED, INSTALLED = ("", {"trust_remote_code": True}), ("import alibi_cli", {})
CASES = {
    "oldest": ("transformers-oldest", (), CARRIED),
    "oldest, import alibi_cli": ("transformers-oldest", (), INSTALLED),
    "newest": ("transformers-newest", (), CARRIED),
    "newest, import alibi_cli": ("transformers-newest", (), INSTALLED),
    "python -O": ("ecosystem", ("-O",), CARRIED),
}


@pytest.mark.parametrize("case", CASES)
def test_version(case: str, checkpoint: Checkpoint, record: Any, tmp_path: Path) -> None:
    environment, flags, (imports, options) = CASES[case]
    python = REPOSITORY / "build" / environment / "bin" / "python"
    script, tokens = SCRIPT.format(imports=imports, options=options), text_tokens()
    command = [str(python), *flags, "-c", script, str(checkpoint.folder), str(checkpoint.steeper)]
    result = subprocess.run(
        command, input=json.dumps(tokens[0].tolist()) + "\n", cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    version, module, debug, same, text, found = json.loads(result.stdout.splitlines()[-1])
    assert module == ("alibi_cli" if imports else "transformers_modules") and same and text == ids_of("abc")
    assert debug == (not flags)
    expected = checkpoint.textbook(tokens)[0]
    difference, control = (apart(torch.tensor(each, dtype=torch.float64), expected) for each in found)
    assert difference < 1e-4 < control
    what = "log-probabilities in a fresh process, by the definition" + (", python -O" if flags else "")
    record("transformers", what, difference, control, at=version)
