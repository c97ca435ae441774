"""A pretrained model, SmolLM2-135M, in the real vLLM, if `make study` or `python -m benchmarks.real_model.environment` has taken it out."""

import time
from pathlib import Path
from typing import Any

import pytest

from alibi_cli.conversion.convert import convert
from tests.vllm.conftest import Record
from tests.vllm.helpers import ask, attention_names, differences, engine

MODEL = Path("build/real_model/SmolLM2-135M-Instruct")
CASES: dict[str, dict[str, Any]] = {
    "replace, Press et al.'s slopes": {},
    "add, Press et al.'s slopes": {"policy": "add"},
    "add, offset 512, 4 sinks": {"policy": "add", "offset": 512, "sinks": 4},
}


DEMONSTRATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "demo-gpt2, replace": ("demo-gpt2", {}),
    "demo-llama, replace": ("demo-llama", {}),
    "demo-llama, add, offset 512, 4 sinks": ("demo-llama", {"policy": "add", "offset": 512, "sinks": 4}),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstration_models(name: str, tmp_path: Path, record: Record):
    """Their heads are 16 wide, which vLLM's kernel for CPUs does not know; 1,000 tokens are twice their trained length."""
    from transformers import AutoTokenizer

    model, options = DEMONSTRATIONS[name]
    convert(model, tmp_path / "demo", **options)
    ids = AutoTokenizer.from_pretrained(tmp_path / "demo")(Path("README.md").read_text()).input_ids[:1000]
    with engine(tmp_path / "demo", max_model_len=1024) as llm:
        (attention,) = attention_names(llm)
        answers = ask(llm, [ids, ids[:100]])
    worst, others = differences(tmp_path / "demo", answers)
    record("demonstrations", case=name, attention=attention, max=worst, others=others)
    assert worst < 5e-4
    assert others == 0


@pytest.mark.skipif(not MODEL.is_dir(), reason="SmolLM2-135M is not there")
@pytest.mark.parametrize("name", CASES)
def test_a_pretrained_model(name: str, tmp_path: Path, record: Record):
    from transformers import AutoTokenizer

    folder = tmp_path / "smol"
    convert(str(MODEL), folder, **CASES[name])
    ids = AutoTokenizer.from_pretrained(folder)(Path("README.md").read_text()).input_ids[:1024]
    with engine(folder, max_model_len=2048) as llm:
        (attention,) = attention_names(llm)
        started = time.monotonic()
        answers = ask(llm, [ids, ids[:100], ids[:17]], generated=32)
        seconds = time.monotonic() - started
    worst, others = differences(folder, answers)
    record("real", case=name, attention=attention, max=worst, others=others, seconds=seconds)
    assert worst < 5e-3  # its activations are large
    assert others == 0
