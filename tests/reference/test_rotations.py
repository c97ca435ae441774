"""Policy add: the rotation of every kind stays as it is, through surgery in memory, a checkpoint, and conversion on disk.

With slopes of almost 0 a converted model must be the original, token by token, also beyond its maximum length. What the rotation reads must
then have stayed in the config: some kinds read the maximum length.
"""

import copy
import json
from pathlib import Path

import pytest
import torch

from alibi_cli import apply_alibi
from alibi_cli.runtime.modeling_alibi import AlibiConfigMixin
from alibi_cli.surgery.kinds_of_rotation import rotation_reads_length
from tests.checkpoint.helpers import convert
from tests.models import OLD_MAX, sample_tokens, save_tiny, tiny_config, tiny_model

NEW_MAX, NONE = 4 * OLD_MAX, [1e-12] * 6
THETA = {"rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, **THETA}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0, **THETA}
YARN = {"rope_type": "yarn", "factor": 4.0, **THETA}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **THETA}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0], **THETA}
SLIDING = {"rope_type": "default", "rope_theta": 500.0}
FIRST = {"original_max_position_embeddings": 12}
KINDS = {  # (family, rope_parameters or more settings, whether the rotation reads the maximum length)
    "default": ("llama", {"rope_type": "default", **THETA}, False),
    "linear": ("llama", LINEAR, False),
    "llama3": ("llama", LLAMA3 | FIRST, False),
    "llama3 without a length": ("llama", LLAMA3, True),
    "dynamic": ("llama", DYNAMIC, True),
    "yarn": ("llama", YARN | FIRST, True),
    "yarn without a length": ("qwen2", YARN, True),
    "yarn by the ratio of lengths": ("llama", YARN | FIRST | {"factor": None}, True),
    "longrope": ("llama", LONG | FIRST | {"factor": 2.0}, True),
    "longrope by the ratio of lengths": ("llama", LONG | FIRST, True),
    "longrope of phi3": ("phi3", LONG, True),
    "partial": ("phi", {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5, **THETA}, False),
    "per type of layer": ("gemma3", {"full_attention": LINEAR, "sliding_attention": SLIDING}, False),
    "per type of layer, dynamic": ("gemma3", {"full_attention": DYNAMIC, "sliding_attention": SLIDING}, True),
    "per type of layer, encoder": ("modernbert", {"full_attention": YARN | FIRST, "sliding_attention": SLIDING}, True),
}

# The others name an original length and a factor, so that only a rule knows that they are of a kind that may read the maximum.
MATTERS = {kind for kind, (_, _, reads) in KINDS.items() if reads} - {"yarn", "longrope", "per type of layer, encoder"}


def settings_of(kind: str) -> dict:
    family, parameters, _ = KINDS[kind]
    more = {"original_max_position_embeddings": 12} if family == "phi3" else {}
    return {"rope_parameters": copy.deepcopy(parameters), **more}


@torch.no_grad()
def outputs(model) -> torch.Tensor:
    """Logits of a text beyond the maximum length and, since some kinds change with it, of a short one before and after."""
    lengths = (OLD_MAX // 3, 2 * OLD_MAX, OLD_MAX // 3, 3 * OLD_MAX)
    kept = {} if not model.can_generate() else {"use_cache": False}
    return torch.cat([model.eval()(input_ids=sample_tokens(1, n), **kept).logits[0] for n in lengths])


@pytest.mark.parametrize("kind", KINDS)
def test_the_rotation_stays(kind: str, tmp_path: Path) -> None:
    family, _, reads = KINDS[kind]
    stock = tiny_model(family, torch.float32, **settings_of(kind))
    expected, converted = outputs(stock), copy.deepcopy(stock)
    apply_alibi(converted, NEW_MAX, policy="add", slopes=NONE)
    assert (outputs(converted) - expected).abs().max() <= 1e-4 * expected.abs().max()  # other kernels, the same scores
    assert converted.config.max_position_embeddings == (OLD_MAX if reads else NEW_MAX)
    assert rotation_reads_length(converted.config) == reads and converted.config.alibi_max_sequence_length == NEW_MAX
    converted.save_pretrained(tmp_path)
    reloaded = type(converted).from_pretrained(tmp_path)
    assert isinstance(reloaded.config, AlibiConfigMixin) and reloaded.config.alibi_policy == "add"
    assert torch.equal(outputs(reloaded), outputs(copy.deepcopy(converted)))
    # What must be noticed: the maximum length that conversion declares, where the rotation reads it; and no rotation at all.
    if kind in MATTERS:
        longer = tiny_model(family, torch.float32, **settings_of(kind), max_position_embeddings=NEW_MAX)
        longer.load_state_dict(stock.state_dict())
        assert (outputs(longer) - expected).abs().max() > 1e-2
    if "encoder" in kind:
        return  # policy replace refuses layers whose rotations have different scales
    replaced = copy.deepcopy(stock)
    apply_alibi(replaced, NEW_MAX, slopes=NONE)
    assert (outputs(replaced) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][0] != "modernbert"])
def test_conversion_on_disk_is_the_surgery_in_memory(kind: str, tmp_path: Path) -> None:
    """Its config.json is the source's with the fewest changes: also where transformers fills in what the source leaves out."""
    from transformers import AutoModelForCausalLM

    family, _, reads = KINDS[kind]
    source = save_tiny(family, tmp_path / "source", **settings_of(kind))
    raw = json.loads((source / "config.json").read_text())
    if "without a length" in kind:  # as other tools write it
        del raw["rope_parameters"]["original_max_position_embeddings"]
        (source / "config.json").write_text(json.dumps(raw))
    (tmp_path / "slopes.json").write_text(json.dumps(NONE))
    options = dict(policy="add", slopes=str(tmp_path / "slopes.json"), max_sequence_length=NEW_MAX)
    report = convert(source, tmp_path / "out", **options)
    assert report.verified.passed
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["max_position_embeddings"] == (OLD_MAX if reads else NEW_MAX)
    stock, converted = (
        AutoModelForCausalLM.from_pretrained(source),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True),
    )
    expected = outputs(stock)
    assert (outputs(converted) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_configs_without_a_rotation_read_nothing() -> None:
    assert not rotation_reads_length(tiny_config("gpt2")) and not rotation_reads_length(tiny_config("t5"))


@pytest.mark.parametrize("family", ["gptj", "codegen"])
@torch.no_grad()
def test_sines_that_stock_attention_reads_from_a_buffer(family: str) -> None:
    """The same numbers, to the bit; beyond the end of the buffer those of a longer one; in a graph that is exported too."""
    stock, longer = tiny_model(family, torch.float32), tiny_model(family, torch.float32, max_position_embeddings=5000)
    converted = copy.deepcopy(stock)
    apply_alibi(converted, NEW_MAX, policy="add", slopes=[1e-30] * stock.config.num_attention_heads)
    attention, table = converted.transformer.h[0].attn, longer.transformer.h[0].attn.embed_positions
    positions = torch.tensor([[4999, 3, 0, OLD_MAX], [7, 7, 8, 4096]])
    assert torch.equal(attention.embed_positions[positions], table[positions])
    tokens, padding = sample_tokens(2, 20), torch.ones(2, 20, dtype=torch.long)
    padding[0, :5] = 0
    places = (padding.cumsum(-1) - 1).clamp_min(0)
    inputs = {"attention_mask": padding, "position_ids": places, "use_cache": False}
    expected, found = stock(tokens, **inputs).logits, converted(tokens, **inputs).logits
    assert (found - expected)[padding.bool()].abs().max() <= 1e-4
    inputs["position_ids"] = 2 * places
    assert (converted(tokens, **inputs).logits - expected)[padding.bool()].abs().max() > 1e-2
    exported = torch.export.export(converted, (tokens,), {"use_cache": False}, strict=False).module()
    assert (exported(tokens, use_cache=False).logits - converted(tokens, use_cache=False).logits).abs().max() <= 1e-4
    cached = converted(tokens[:, :12], use_cache=True)
    rest = converted(tokens[:, 12:], past_key_values=cached.past_key_values).logits
    assert (rest - converted(tokens).logits[:, 12:]).abs().max() <= 1e-4
