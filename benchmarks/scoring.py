"""Scoring by `alibi eval` against the perplexity loop of the transformers documentation and against lm-evaluation-harness.

All score one text with the same model: the demonstration checkpoint and a GPT-2-small-shaped one of random weights, both converted, because
lengths beyond the position embeddings are the point. Ours and each baseline have a process of their own, so that peak
memory is theirs; the arms take turns.

loop     the documentation's loop (huggingface.co/docs/transformers/perplexity): windows of L tokens that advance by 512, one at a time
harness  lm-evaluation-harness's loglikelihood_rolling with its default batch size, installed under build/ by this script
sliding  ours, in the windows of the loop: the same tokens are fed, the same tokens are scored
lm-eval  ours, in the windows of the harness: the same tokens are fed, the same tokens are scored

Times are per 1,000 *scored* tokens, because all of these feed L tokens per window. The loop and `sliding` score 512 of them, `harness` and
`lm-eval` all of them: each token of the text once either way. Times are CPU times of all threads, waiting for each other included, which
other processes disturb little; memory is the peak of the process beyond what it takes with the model loaded.
"""

import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.evaluation.protocols import make_protocol
from alibi_cli.evaluation.scoring import Scorer
from alibi_cli.settings.presets import presets_folder
from alibi_cli.silence import silence_libraries
from alibi_cli.text.documents import load_text
from alibi_cli.text.tokens import TokenizedDocument, enclosed, first_token
from benchmarks.claims import Claim

MODELS = ("demo-gpt2", "gpt2-small")
LENGTHS = (512, 1024, 2048, 4096, 8192)
TARGETS = {1024: 1 / 1.5, 8192: 1 / 3}  # of the baseline's time; at other lengths the target is to be ahead
MEMORY = 0.5  # of the baseline's
STRIDE = 512
HARNESS = "lm-eval==0.4.13"
FOLDER = Path("build/lm-eval")
OURS = {"loop": "sliding", "harness": "lm-eval"}  # in whose windows


def measure(
    short: bool,
    models: tuple[str, ...] = MODELS,
    lengths: tuple[int, ...] = LENGTHS,
    harness: bool = True,
    head_length: int = 32768,
) -> Iterator[Claim]:
    lengths = tuple(length for length in lengths if not short or length in (lengths[0], *TARGETS))
    python = {"ours": sys.executable, "loop": sys.executable}
    if harness and (interpreter := _install_harness()) is not None:
        python["harness"] = interpreter
    for model in models:
        processes = {name: Process(path, model) for name, path in python.items()}
        try:
            for length in lengths:
                windows = max(1, (4096 if short else 8192) // length)
                # Long texts through the larger model take minutes, and differ by more than noise.
                repeats = 1 if short or (model != MODELS[0] and length > 1024) else 3
                yield from _claims(model, length, _best(processes, length, windows, repeats))
        finally:
            for process in processes.values():
                process.stop()
    yield head_memory(head_length)


class Process:
    """A process that has loaded a model."""

    def __init__(self, python: str, model: str):
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.scoring", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arm: str, length: int, windows: int) -> dict[str, float]:
        """{"seconds", "scored", "bits_per_byte", "peak"} of an arm for so many windows of a length."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([arm, length, windows]) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("{"):  # libraries print too
            if not line:
                raise RuntimeError("a scoring process ended early")
        return json.loads(line)

    def stop(self) -> None:
        self.process.communicate()


def _best(processes: dict[str, Process], length: int, windows: int, repeats: int) -> dict[str, dict[str, float]]:
    """What each arm says; its least seconds and its highest peak of `repeats`."""
    arms = {**processes, "sliding": processes["ours"], "lm-eval": processes["ours"]}
    del arms["ours"]
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, process in arms.items():
            found = process.run(name, length, windows)
            before = best.get(name, found)
            seconds, peak = min(found["seconds"], before["seconds"]), max(found["peak"], before["peak"])
            best[name] = {**found, "seconds": seconds, "peak": peak}
    return best


def _claims(model: str, length: int, found: dict[str, dict[str, float]]) -> Iterator[Claim]:
    def seconds(arm: str) -> float:
        return 1000 * found[arm]["seconds"] / found[arm]["scored"]

    target = TARGETS.get(length, 1.0)
    pairs = [("loop", "sliding", "same windows"), ("loop", "lm-eval", "each token once"), ("harness", "lm-eval", "")]
    for baseline, ours, what in pairs:
        if baseline in found:
            yield Claim(
                claim=f"scoring, {length} tokens, {model}",
                against=f"{baseline}, {what}" if what else baseline,
                unit="s per 1,000",
                ours=seconds(ours),
                baseline=seconds(baseline),
                target=target,
            )
    for baseline, ours in OURS.items():
        if baseline in found:
            yield Claim(
                claim=f"peak memory of scoring, {length} tokens, {model}",
                against=baseline,
                unit="MB",
                ours=found[ours]["peak"] / 1e6,
                baseline=found[baseline]["peak"] / 1e6,
                target=MEMORY if length in TARGETS else 1.0,
            )
    if "harness" in found:
        difference = abs(found["lm-eval"]["bits_per_byte"] - found["harness"]["bits_per_byte"])
        yield Claim(
            claim=f"difference in bits per byte, {length} tokens, {model}",
            against="harness",
            unit="",
            ours=difference,
            baseline=1e-4,
            target=1.0,
        )


def head_memory(length: int, vocabulary: int = 128_256, width: int = 64) -> Claim:
    """The head alone: hidden states of a whole window come in, one loss per token goes out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width, num_hidden_layers=1, num_attention_heads=4
    )
    scorer = Scorer(LlamaForCausalLM(config), [], [])
    hidden, targets = torch.randn(length, width), torch.arange(length)
    with torch.no_grad():
        peak = peak_of_allocations(lambda: scorer._losses(hidden, targets))
    return Claim(
        claim=f"peak memory of the head, {length} tokens, a vocabulary of {vocabulary}",
        against="hidden states and one chunk",
        unit="MB",
        ours=(peak + hidden.nbytes) / 1e6,
        baseline=(hidden.nbytes + 4 * scorer.logits_per_chunk) / 1e6,
        target=1.2,
    )


def _install_harness() -> str | None:
    """The interpreter of an environment that has the harness, and everything else from the one that runs this."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "installed").exists():
        import sysconfig
        import venv

        venv.create(FOLDER, with_pip=True)
        libraries = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (Path(libraries) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "-q", "-c", "constraints.txt", HARNESS]
        if subprocess.run(install, stdout=sys.stderr, check=False).returncode:
            print(f"{HARNESS} could not be installed: it is left out.", file=sys.stderr)
            return None
        (FOLDER / "installed").touch()
    return str(python.absolute())


# In the process of an arm.


def serve(name: str) -> None:
    """Reads [arm, length, windows] and writes what `Process.run` returns, line by line."""
    silence_libraries()
    model, tokenizer = load(name)
    arms = {"loop": loop, "harness": harness, "sliding": sliding, "lm-eval": lm_eval}
    text = "\n".join(document for _, document in load_text().documents)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    sliding(model, tokenizer, text[:64], 32)  # what happens once
    loaded = _held(device)
    for line in sys.stdin:
        arm, length, windows = json.loads(line)
        part = text[: n_tokens(arm, length, windows)]  # a letter is a token
        gc.collect()
        _reset_peak(device)
        started = _now(device)
        nll, scored = arms[arm](model, tokenizer, part, length)
        seconds = _now(device) - started
        found = {"seconds": seconds, "scored": scored, "bits_per_byte": nll / math.log(2) / scored}
        print(json.dumps({**found, "peak": max(_peak(device) - loaded, 1)}), flush=True)


def n_tokens(arm: str, length: int, windows: int) -> int:
    """As many as make `windows` windows: those that the loop moves by, or those of the harness, whose last one is not full where there
    are several."""
    if arm in ("loop", "sliding"):  # ours scores one more with the first window
        return length + min(STRIDE, length) * windows + (arm == "sliding")
    return length * windows - (length // 3 if windows > 1 else 0)


def load(name: str) -> tuple[Any, Any]:
    """A converted model in memory and a tokenizer that makes one token of a letter."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from alibi_cli import apply_alibi

    tokenizer = AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")
    if name == "gpt2-small":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config()).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(presets_folder() / name).eval()
    apply_alibi(model, max_sequence_length=max(LENGTHS))
    return model, tokenizer


def loop(model: Any, tokenizer: Any, text: str, length: int) -> tuple[float, int]:
    """As documented, from its second window on: the first one is not like the others, and in a long text does not matter."""
    ids = torch.tensor([tokenizer(text).input_ids])
    nll, scored, previous_end, stride = 0.0, 0, length, min(STRIDE, length)
    for begin in range(stride, ids.shape[1], stride):
        end = min(begin + length, ids.shape[1])
        new = end - previous_end
        window = ids[:, begin:end].to(model.device)
        labels = window.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss
        nll, scored, previous_end = nll + float(loss) * new, scored + new, end
        if end == ids.shape[1]:
            break
    return nll, scored


def sliding(model: Any, tokenizer: Any, text: str, length: int) -> tuple[float, int]:
    document = TokenizedDocument("", np.array(tokenizer(text).input_ids), None)
    protocol = make_protocol("sliding", (length,), stride=min(STRIDE, length))
    return _sum(Scorer(model, [], []).score([document], protocol.windows([document], length)[1:]))


def lm_eval(model: Any, tokenizer: Any, text: str, length: int) -> tuple[float, int]:
    document = TokenizedDocument("", np.array(tokenizer(text).input_ids), None)
    documents = [enclosed(document, [first_token(tokenizer)], [])]
    windows = make_protocol("lm-eval", (length,)).windows(documents, length)
    return _sum(Scorer(model, [], []).score(documents, windows))


def harness(model: Any, tokenizer: Any, text: str, length: int) -> tuple[float, int]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    runner = HFLM(pretrained=model, tokenizer=tokenizer, max_length=length, device=str(model.device))
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    with redirect_stderr(StringIO()):  # its progress
        (total,) = runner.loglikelihood_rolling([request], disable_tqdm=True)
    return -float(total), len(tokenizer(text).input_ids)


def _sum(scores: list[np.ndarray]) -> tuple[float, int]:
    return float(sum(score.sum() for score in scores)), sum(map(len, scores))


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's record of the highest resident size


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    serve(*sys.argv[1:])
