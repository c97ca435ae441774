"""A second environment that has torch, transformers and safetensors and has never heard of this package."""

import json
import subprocess
from pathlib import Path

import pytest

from alibi_cli.conversion.writer import write
from tests.checkpoint.helpers import plan_of
from tests.environments import environment
from tests.models import FAMILIES, OWN_BIAS, save_tiny

SCRIPT = """
import json, sys
import torch, transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

transformers.utils.logging.set_verbosity_error()
folder, out = sys.argv[1:]
try:
    import alibi_cli
    raise SystemExit("this environment can import alibi_cli")
except ImportError:
    pass
try:
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    raise SystemExit("loaded without trust_remote_code")
except ValueError as error:
    refusal = str(error)

model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
prompt = tokenizer("def attention(", return_tensors="pt")
torch.manual_seed(0)
settings = dict(max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=1)
cached, uncached = (model.generate(**prompt, use_cache=flag, **settings) for flag in (True, False))
beams = model.generate(**prompt, num_beams=3, **settings)

tokenizer.padding_side, tokenizer.pad_token_id = "left", 1
generate = pipeline("text-generation", model=folder, tokenizer=tokenizer, trust_remote_code=True, device="cpu")
texts = generate(["import os", "x"], max_new_tokens=5, batch_size=2, do_sample=False)

long = torch.arange(300)[None] % 200
with torch.no_grad():
    logits = model(input_ids=long).logits

model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
first = model(input_ids=long, labels=long).loss
first.backward()
without_gradient = [n for n, p in model.named_parameters() if p.grad is None]
optimizer.step()
second = model(input_ids=long, labels=long).loss
model.eval().save_pretrained(out)
again = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
with torch.no_grad():
    reload_difference = (again(input_ids=long).logits - model(input_ids=long).logits).abs().max().item()
print(json.dumps({
    "refusal": refusal, "class": type(model).__name__, "cache": torch.equal(cached, uncached),
    "generated": cached.shape[1], "beams": beams.shape[1],
    "texts": len(texts), "logits": logits[0, -1, :5].tolist(), "loss": [first.item(), second.item()], "without_gradient": without_gradient,
    "reload_difference": reload_difference, "base": type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__,
}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("plain") / "plain", "torch", "transformers", "safetensors")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_stranger_loads_generates_trains_saves_and_reloads(family: str, python: Path, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / "source")
    write(plan_of(source, tmp_path / "converted", max_sequence_length=512))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [str(python), "-I", str(tmp_path / "script.py"), str(tmp_path / "converted"), str(tmp_path / "trained")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    assert "trust_remote_code" in facts["refusal"]
    assert facts["class"].startswith("Alibi") and facts["base"].startswith("Alibi")
    assert facts["cache"] and facts["generated"] == facts["beams"] == 54 and facts["texts"] == 2
    assert facts["loss"][1] < facts["loss"][0] and facts["without_gradient"] == [] and facts["reload_difference"] == 0.0

    import torch
    from transformers import AutoModelForCausalLM

    from alibi_cli import apply_alibi

    model = AutoModelForCausalLM.from_pretrained(source)
    apply_alibi(model, 512)
    with torch.no_grad():
        ours = model.eval()(input_ids=torch.arange(300)[None] % 200).logits[0, -1, :5]
    assert torch.allclose(ours, torch.tensor(facts["logits"]), atol=1e-5)


EVERY_FAMILY = """
import json, sys, warnings
import torch, transformers

transformers.utils.logging.set_verbosity_error()
try:
    import alibi_cli
    raise SystemExit("this environment can import alibi_cli")
except ImportError:
    pass
found = {}
for family, (folder, auto) in json.loads(sys.argv[1]).items():
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    tokens = torch.arange(3, 53)[None]
    inputs = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found[family] = [type(model).__name__, model(input_ids=tokens, **inputs).logits[0, -1, :7].tolist()]
print(json.dumps(found))
"""


def test_every_family_loads_and_computes_the_same_there(python: Path, tmp_path: Path) -> None:
    import torch

    from alibi_cli import apply_alibi

    folders, expected = {}, {}
    for family in [*FAMILIES, *OWN_BIAS]:
        plan = plan_of(save_tiny(family, tmp_path / family), tmp_path / f"{family}-alibi", max_sequence_length=100)
        report = write(plan, check=False)
        folders[family] = (report.output, report.loads_with.split(".")[0])
        model = plan.source.model_class.from_pretrained(plan.source.folder)
        apply_alibi(model, 100)
        tokens = torch.arange(3, 53)[None]
        inputs = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            expected[family] = (type(model).__name__, model.eval()(input_ids=tokens, **inputs).logits[0, -1, :7])
    (tmp_path / "script.py").write_text(EVERY_FAMILY)
    command = [str(python), "-I", str(tmp_path / "script.py"), json.dumps(folders)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for family, (name, logits) in expected.items():
        assert found[family][0] == name
        assert torch.allclose(torch.tensor(found[family][1]), logits, atol=1e-4, rtol=1e-5), family
