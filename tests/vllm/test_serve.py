"""Processes of their own: the server and its OpenAI interface, two ranks of tensor parallelism, and vLLM without the plug-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.helpers import convert
from tests.test_documentation import script
from tests.vllm.test_families import made

ASK = """
import json, sys
from tests.vllm.helpers import ask, differences, engine, some_ids
if __name__ == "__main__":
    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    with engine(folder, **settings) as llm:
        answers = ask(llm, [some_ids(), some_ids(40, seed=2)])
    print("found", *differences(folder, answers))
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("trusted", [False, True], ids=["no remote code", "remote code"])
def test_without_the_plugin_vllm_refuses(trusted: bool, tmp_path: Path):
    """The code that a checkpoint carries is all that keeps vLLM from running it without its bias."""
    code = "import sys; from vllm import LLM\nif __name__ == '__main__': LLM(sys.argv[1], trust_remote_code=%s, max_model_len=256)"
    done = run(code % trusted, str(made(tmp_path, "llama")), VLLM_PLUGINS="", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert done.returncode != 0
    expected = "would drop the bias" if trusted else "trust_remote_code"
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("options", [{}, {"policy": "add", "offset": 40, "sinks": 4}], ids=["kernel", "own"])
def test_two_ranks_of_tensor_parallelism(options: dict[str, object], tmp_path: Path):
    folder = made(tmp_path, "llama", **options)
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps({"tensor_parallel_size": 2})],
        env={
            **os.environ,
            "PYTHONPATH": str(Path.cwd()),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("found")]
    assert found, done.stderr[-3000:]
    assert float(found[0][1]) < 2e-4
    assert found[0][2] == "0"


def test_the_server_answers_an_openai_client(tmp_path: Path):
    from openai import OpenAI
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "kept"
    convert("demo-llama", folder, check=False, policy="add", offset=480, sinks=4)
    prompt = "def sort(values):\n    " * 3
    options = ("--dtype", "float32", "--max-model-len", "2048", "--enforce-eager")
    with script("write_console_output").server(folder, *options, folder=tmp_path) as url:
        client = OpenAI(base_url=url, api_key="none")
        assert [model.id for model in client.models.list()] == [str(folder)]
        said = client.completions.create(model=str(folder), prompt=prompt, max_tokens=20, temperature=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    made = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert said.choices[0].text == tokenizer.decode(made)
    assert said.usage is not None
    assert said.usage.prompt_tokens == ids.shape[1]
