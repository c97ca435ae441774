"""What needs a GPU, one step after the other (`make gpu`); without one, the list of what it would run.

python scripts/gpu.py [STEP …]
"""

import subprocess
import sys
import time
from pathlib import Path

import torch

OUT = Path("build/gpu")
PYTEST = [sys.executable, "-m", "pytest", "-q", "--device", "cuda"]
ALIBI = [sys.executable, "-m", "alibi_cli"]
# Row "plain" of the benchmark: torch's FlashAttention without a bias. Row "sdpa": torch's kernel with the bias of every head materialised.
STEPS: dict[str, tuple[str, list[str]]] = {
    "attention": ("every backend against float64", [*PYTEST, "tests/attention"]),
    "runtime": ("every family against the textbook", [*PYTEST, "tests/reference", "tests/surgery"]),
    "scoring": ("losses against a plain loop", [*PYTEST, "tests/evaluation/test_scoring.py", "tests/evaluation/test_rotation.py"]),
    "split": ("one model over GPU, memory and disk", [*PYTEST, "tests/evaluation/test_devices.py"]),
    "split, on the command line": (
        "the same by `alibi eval`",
        [*ALIBI, "eval", "demo-llama", "--lengths", "512:4096", "--device", "split", "--max-segments", "64", "--json"],
    ),
    "training": ("losses, states, continuations", [*PYTEST, "tests/training"]),
    "table": (
        "attention in bfloat16 against FlashAttention without a bias (plain) and a materialised bias (sdpa)",
        [*ALIBI, "bench", "attention", "--device", "cuda", "--dtype", "bfloat16", "--lengths", "1024:16384", "--json"],
    ),
    "harness": (
        "scoring against lm-evaluation-harness",
        [sys.executable, "-m", "benchmarks", "scoring", "--output", str(OUT / "scoring.json")],
    ),
    "study": ("a real model before and after", [sys.executable, "-m", "benchmarks.real_model"]),
}  # fmt: skip


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in STEPS]:
        sys.exit(f"There is no step {', '.join(unknown)}; there are {', '.join(STEPS)}.")
    chosen = names or list(STEPS)
    if not torch.cuda.is_available():
        print("No GPU here. `make gpu` would run:")
        for name in chosen:
            what, command = STEPS[name]
            print(f"  {name}: {what}\n    {' '.join(['python', *command[1:]])}")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    for name in chosen:
        started, log = time.monotonic(), OUT / f"{name.replace(', ', '-').replace(' ', '-')}.txt"
        with log.open("w") as file:
            code = subprocess.run(STEPS[name][1], stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        failed += code != 0
        print(f"{name}: {'passed' if code == 0 else f'exit {code}'} in {time.monotonic() - started:.0f} s, {log}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
