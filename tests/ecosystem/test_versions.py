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

tokens, found, options = torch.tensor(json.loads(sys.stdin.read())), [], {options}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        found.append(model(input_ids=tokens).logits.double().log_softmax(-1)[0].tolist())
    greedy = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    cached, whole = (model.generate(tokens[:, :20], **greedy, use_cache=flag) for flag in (True, False))
    if not torch.equal(cached, whole):
        sys.exit("other tokens with a cache")
text = AutoTokenizer.from_pretrained(folder, **options)("abc").input_ids
print(json.dumps([transformers.__version__, type(model).__module__.split(".")[0], __debug__, text, found]))
"""
CARRIED, INSTALLED = ("", {"trust_remote_code": True}), ("import alibi_cli", {})
CASES = {
    "oldest": ("transformers-oldest", (), CARRIED),
    "oldest, import alibi_cli": ("transformers-oldest", (), INSTALLED),
    "newest": ("transformers-newest", (), CARRIED),
    "python -O": ("ecosystem", ("-O",), CARRIED),
}


@pytest.mark.parametrize("case", CASES)
def test_version(case: str, made: dict[str, Checkpoint], record: Any, tmp_path: Path) -> None:
    environment, flags, (imports, options) = CASES[case]
    python = REPOSITORY / "build" / environment / "bin" / "python"
    script, tokens = SCRIPT.format(imports=imports, options=options), text_tokens()
    folders = [str(folder) for checkpoint in made.values() for folder in (checkpoint.folder, checkpoint.steeper)]
    command, said = [str(python), *flags, "-c", script, *folders], json.dumps(tokens.tolist())
    result = subprocess.run(command, input=said, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    version, module, debug, text, found = json.loads(result.stdout.splitlines()[-1])
    assert module == ("alibi_cli" if imports else "transformers_modules") and text == ids_of("abc")
    assert debug == (not flags)
    expected = [checkpoint.textbook(tokens)[0] for checkpoint in made.values() for _ in range(2)]
    differences = [apart(torch.tensor(a, dtype=torch.float64), b) for a, b in zip(found, expected, strict=True)]
    difference, control = max(differences[::2]), min(differences[1::2])
    assert difference < 1e-4 < control
    what = "log-probabilities in a fresh process, by the definition" + (", `python -O`" if flags else "")
    record("transformers", what, difference, control, at=version)
