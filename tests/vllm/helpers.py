"""A converted checkpoint in the real vLLM, and the same in transformers."""

import gc
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

Result = TypeVar("Result")
LENGTH, GENERATED = 200, 24
# Heads as wide as vLLM's kernel for CPUs knows them, and texts longer than what the models were made for.
WIDE: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 192, "num_hidden_layers": 3,
    "max_position_embeddings": 64, "initializer_range": 0.1, "init_std": 0.1, "use_cache": True,
}  # fmt: skip


@dataclass
class Answer:
    """What an engine says of one prompt: log-probabilities of its tokens from the second on, and of the tokens that it generated."""

    prompt: list[int]
    of_prompt: list[float]
    generated: list[int]
    of_generated: list[float]


@contextmanager
def engine(folder: Path | str, **settings: Any) -> Iterator[Any]:
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    chosen = {
        "dtype": "float32", "enforce_eager": True, "max_model_len": 256, "skip_tokenizer_init": True, "max_num_seqs": 4,
        "disable_log_stats": True, **settings,
    }  # fmt: skip
    llm = None
    _look_here_at_model_of(Path(folder))
    try:
        llm = LLM(str(folder), **chosen)
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def _look_here_at_model_of(folder: Path) -> None:
    """vLLM looks at a model's class in a process of its own, half a minute for each; these tests have one process."""
    from importlib import import_module

    from vllm import ModelRegistry

    import alibi_cli.serving

    alibi_cli.serving.register()
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    if route := alibi_cli.serving.routes.architectures().get(name):
        ModelRegistry.register_model(name, getattr(import_module(f"alibi_cli.serving.{route}"), name))


def ask(llm: Any, prompts: list[list[int]], generated: int = GENERATED) -> list[Answer]:
    """Greedy generation."""
    from vllm import SamplingParams

    settings = SamplingParams(
        temperature=0, max_tokens=generated, prompt_logprobs=0, logprobs=0, detokenize=False, ignore_eos=True
    )
    outputs = llm.generate([{"prompt_token_ids": each} for each in prompts], settings, use_tqdm=False)
    answers = []
    for prompt, output in zip(prompts, outputs, strict=True):
        of_prompt = [output.prompt_logprobs[i][prompt[i]].logprob for i in range(1, len(prompt))]
        made = output.outputs[0]
        ids = list(made.token_ids)
        answers.append(
            Answer(prompt, of_prompt, ids, [by_id[i].logprob for by_id, i in zip(made.logprobs, ids, strict=True)])
        )
    return answers


def differences(folder: Path | str, answers: list[Answer]) -> tuple[float, int]:
    """(largest difference of a log-probability from transformers, how many generated tokens are not the likeliest there)"""
    return elsewhere(_differences, folder, answers)


def elsewhere(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """function(…) in a process without vLLM, whose Transformers backend changes transformers' classes."""
    return _process().submit(function, *arguments, **options).result()


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _differences(folder: Path | str, answers: list[Answer]) -> tuple[float, int]:
    from transformers import AutoModelForCausalLM

    import alibi_cli  # noqa: F401 - transformers knows converted checkpoints by it

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    differ, others = [0.0], 0
    for answer in answers:
        ids = torch.tensor([answer.prompt + answer.generated])
        with torch.no_grad():
            logprobs = model(ids).logits[0].float().log_softmax(-1)
        said = torch.tensor(answer.of_prompt + answer.of_generated)
        expected = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        differ.append(float((said - expected).abs().max()))
        best = logprobs[len(answer.prompt) - 1 : -1].argmax(-1)
        others += int((best != ids[0, len(answer.prompt) :]).sum())
    return (math.nan if any(map(math.isnan, differ)) else max(differ)), others


def attention_names(llm: Any) -> set[str]:
    """The backends that compute the attention of an engine's model."""
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    return {module.attn_backend.get_name() for module in model.modules() if hasattr(module, "attn_backend")}


def changed_config(folder: Path, **changes: Any) -> Path:
    """A copy of a checkpoint whose config says something else."""
    other = folder.with_name(f"{folder.name}-{'-'.join(changes)}")
    other.mkdir()
    for file in folder.iterdir():
        if file.name != "config.json":
            (other / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | changes))
    return other


def some_ids(count: int = LENGTH, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 320, (count,), generator=generator).tolist()
