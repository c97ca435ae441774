"""What transformers derives from a class's source, module or name: a converted class answers as its original does.

In processes of their own, because transformers keeps such answers on the class, and a converted class inherits what the original was asked
before."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from alibi_cli import apply_alibi
from tests.checkpoint.helpers import convert
from tests.conftest import REPOSITORY
from tests.models import FAMILIES, OWN_BIAS, sample_tokens, save_tiny, tiny_model
from tests.python import python

EXPERTS = ("gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe")
# Whose answer is another on purpose: converted models come with code of their own, and no other attention has the bias.
OURS = {"is_backend_compatible", "is_custom_code", "is_remote_code", "_can_set_attn_implementation"}
OURS |= {"_supports_attention_backend", "_supports_flash_attn", "_supports_flex_attn", "_auto_class"}

SCRIPT = """
import json, sys, torch
from transformers import AutoModelForCausalLM

found = {}
for family, folder in json.loads(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = model(tokens).logits
        chosen = model.config._experts_implementation
        program = torch.export.export(model, (tokens,), {"use_cache": False}).module() if family == "mixtral" else None
        exported = program(tokens, use_cache=False).logits if program else logits
        model.set_experts_implementation("eager")
        eager = model(tokens).logits
    asked = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, experts_implementation="grouped_mm")
    found[family] = [chosen, (exported - logits).abs().max().item(), (eager - logits).abs().max().item(), type(asked).__module__]
print(json.dumps(found))
"""


def test_mixtures_of_experts_in_a_fresh_process(tmp_path: Path) -> None:
    folders = {}
    for family in EXPERTS:
        source = save_tiny(
            family, tmp_path / family, hidden_size=64, num_attention_heads=4, experts_implementation=None
        )
        folders[family] = str(tmp_path / f"{family}-alibi")
        convert(source, Path(folders[family]), check=False)
    result = python("-c", SCRIPT, json.dumps(folders), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for family, (chosen, exported, eager, module) in json.loads(result.stdout.splitlines()[-1]).items():
        assert module.startswith("transformers_modules"), family
        assert chosen == "grouped_mm" and exported < 1e-5 and eager < 1e-4, (family, chosen, exported, eager)


ANSWERS = """
import inspect, json, sys
from transformers import PreTrainedModel
from alibi_cli.runtime.modeling_alibi import model_class_for
from tests.models import FAMILIES, OWN_BIAS, _language_model, tiny_config

names = [name for name in dir(PreTrainedModel) if isinstance(inspect.getattr_static(PreTrainedModel, name), classmethod)]
different = {}
for family in [*FAMILIES, *OWN_BIAS]:
    base = _language_model(tiny_config(family))
    made = model_class_for(base)
    for name in dir(base):
        if name.startswith("__") or name == "register_for_auto_class":
            continue
        ours, theirs = getattr(made, name, None), getattr(base, name, None)
        if name in names:
            needs = [p for p in inspect.signature(theirs).parameters.values() if p.default is p.empty and p.kind < 2]
            if needs or "kwargs" in inspect.signature(theirs).parameters:
                continue
            ours, theirs = ours(), theirs()
        if isinstance(theirs, (bool, int, str, tuple, list, dict, set, type(None))) and ours != theirs:
            different.setdefault(name, []).append(family)
print(json.dumps(different))
"""


def test_every_answer_of_a_class_is_that_of_the_original_but_for_these() -> None:
    result = python("-c", ANSWERS, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    different = json.loads(result.stdout.splitlines()[-1])
    different.pop("_can_set_attn_implementation_cached_value", None)  # of the method without this ending
    assert set(different) <= OURS and len(different["is_remote_code"]) == len(FAMILIES) + len(OWN_BIAS)
    assert inspect.ismethod(PreTrainedModel._can_set_experts_implementation)  # else the first test proves nothing


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_continuous_batching_is_refused_with_a_way_out(family: str) -> None:
    model = tiny_model(family, torch.float32)
    apply_alibi(model, 64)
    tokens = sample_tokens(2, 9)
    ways = model.generate_batch, model.init_continuous_batching, model.continuous_batching_context_manager
    for way in ways:
        with pytest.raises(NotImplementedError, match=r"continuous batching.*padded batches") as error:
            way(tokens.tolist())
        assert "paged" not in str(error.value) and "sdpa" not in str(error.value)
    assert model.generate(tokens, max_new_tokens=2, do_sample=False).shape == (2, 11)
