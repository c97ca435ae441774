"""What vLLM's kernels have no room for, and what they have, under both policies, in the real vLLM against transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alibi_cli.slopes import get_slopes
from tests.exporting.helpers import checkpoint
from tests.vllm.conftest import Record
from tests.vllm.helpers import (
    GENERATED,
    LENGTH,
    WIDE,
    ask,
    attention_names,
    changed_config,
    differences,
    elsewhere,
    engine,
    some_ids,
)
from tests.vllm.test_families import made, slopes

CASES: dict[str, tuple[str, dict[str, Any], str]] = {  # family, options, the attention that has to compute it
    "add": ("llama", {"policy": "add"}, "CPU_ATTN"),
    "add to interleaved halves": ("gptj", {"policy": "add"}, "CPU_ATTN"),
    "add, by the other route": ("gpt_neox", {"policy": "add"}, "CPU_ATTN"),
    "sinks": ("llama", {"sinks": 3}, "ALIBI"),
    "sinks, by the other route": ("gpt_neox", {"sinks": 3}, "ALIBI"),
    "sinks and windows": ("mistral", {"sinks": 2}, "ALIBI"),
    "sinks, windows, soft caps": ("gemma2", {"sinks": 2}, "ALIBI"),
    "sinks beside learned ones": ("gpt_oss", {"sinks": 2}, "ALIBI"),
    "offsets": ("llama", {"policy": "add", "offset": 40}, "ALIBI"),
    "sinks that are seen as near": ("llama", {"policy": "add", "offset": 40, "sinks": 4}, "ALIBI"),
    "the same, interleaved": ("glm", {"policy": "add", "offset": 40, "sinks": 4}, "ALIBI"),
}


@pytest.mark.parametrize("name", CASES)
def test_policies_sinks_and_offsets(name: str, tmp_path: Path, record: Record):
    family, options, attention = CASES[name]
    file = tmp_path / "slopes.json"
    file.write_text(json.dumps(slopes()))
    folder = made(tmp_path, family, slopes=str(file), **options)
    with engine(folder) as llm:
        assert attention_names(llm) == {attention}
        answers = ask(llm, [some_ids(), some_ids(33), some_ids(100, seed=2)])
    worst, others = differences(folder, answers)
    record("policies", case=name, family=family, attention=attention, max=worst, others=others)
    assert worst < 2e-4
    assert others == 0
    changed = changed_config(folder, alibi_slopes=[[1.1 * value for value in row] for row in slopes()])
    assert differences(changed, answers)[0] > 1e-3
    if "sinks" in options:
        assert differences(changed_config(folder, alibi_sinks=0), answers)[0] > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_bigcode"])
def test_a_vector_in_place_of_positions(family: str, tmp_path: Path):
    folder = made(tmp_path, family)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith(("wte.weight", "embed_tokens.weight")))
    table = {"gpt2": "wpe", "gpt_bigcode": "wpe", "opt": "embed_positions"}[family]
    vector = name.replace("wte.weight", f"{table}.vector").replace("embed_tokens.weight", f"{table}.vector")
    weights[vector] = torch.linspace(-0.5, 0.5, WIDE["hidden_size"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with_vector = changed_config(folder, alibi_position_vector=True)
    with engine(with_vector) as llm:
        answers = ask(llm, [some_ids(60)])
    assert differences(with_vector, answers)[0] < 2e-4
    assert differences(folder, answers)[0] > 1e-3


@pytest.mark.parametrize("options", [{}, {"policy": "add", "offset": 8, "sinks": 2}], ids=["replace", "add"])
def test_heads_that_are_too_narrow_for_the_kernel(options: dict[str, Any], tmp_path: Path):
    folder = elsewhere(checkpoint, tmp_path, "llama", {"vocab_size": 320}, max_sequence_length=256, **options)  # 8 wide
    with engine(folder) as llm:
        assert attention_names(llm) == {"ALIBI"}
        answers = ask(llm, [some_ids(), some_ids(17)])
    worst, others = differences(folder, answers)
    assert (worst < 2e-4, others) == (True, 0)


@pytest.mark.parametrize("options", [{}, {"policy": "add", "offset": 40, "sinks": 4}], ids=["kernel", "own"])
def test_chunked_prefill_and_cached_prefixes(options: dict[str, Any], tmp_path: Path):
    folder = made(tmp_path, "llama", **options)
    shared = some_ids(160)
    prompts = [[*shared, *some_ids(30, seed=2)], [*shared, *some_ids(20, seed=3)]]
    with engine(folder, enable_prefix_caching=True, max_num_batched_tokens=64, block_size=32) as llm:
        first = [ask(llm, [prompt])[0] for prompt in prompts]
        hits = _generated_after(llm, prompts)
    worst, others = differences(folder, first)
    assert (worst < 2e-4, others) == (True, 0)
    assert [list(each.token_ids) for each in hits] == [answer.generated for answer in first]


def _generated_after(llm: Any, prompts: list[list[int]]) -> list[Any]:
    """The same without log-probabilities of the prompt, which would keep vLLM from using what it has cached."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=GENERATED, detokenize=False, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": each} for each in prompts], settings, use_tqdm=False)
    assert all(output.num_cached_tokens >= 128 for output in outputs)
    return [output.outputs[0] for output in outputs]


def test_presss_slopes_of_a_number_of_heads_that_is_no_power_of_two(tmp_path: Path):
    folder = made_with(tmp_path, heads=6)
    assert json.loads((folder / "config.json").read_text())["alibi_slopes"] == get_slopes(6)
    with engine(folder) as llm:
        answers = ask(llm, [some_ids(LENGTH)])
    assert differences(folder, answers)[0] < 2e-4


def made_with(folder: Path, heads: int) -> Path:
    changes = {
        **WIDE,
        "hidden_size": 32 * heads,
        "num_attention_heads": heads,
        "head_dim": 32,
        "num_key_value_heads": 2,
    }
    return elsewhere(checkpoint, folder, "llama", changes, max_sequence_length=256)
