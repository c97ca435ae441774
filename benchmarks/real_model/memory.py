"""How much memory calibration by reach takes above the model, at 12,288 tokens of SmolLM2-135M-Instruct.

    python -m benchmarks.real_model.memory

Two processes: one that loads the model and reads one token, and the command that makes the arm add-reach, without verification. Their peaks
of resident memory go to benchmarks/real_model/memory.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.real_model import environment
from benchmarks.real_model.arms import REACH_LENGTH, words_of

LOADED = """
import sys, torch
from transformers import AutoModelForCausalLM
import alibi_cli.calibration.of_source
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.no_grad():
    model(input_ids=torch.zeros(1, 1, dtype=torch.long))
"""


def main() -> None:
    with TemporaryDirectory() as folder:
        model = str(environment.model())
        loaded = peak([sys.executable, "-c", LOADED, model])
        words = words_of("add-reach", Path(folder) / "out")
        converted = peak([sys.executable, "-m", "alibi_cli", *words, "--no-verify"])
    found = {"tokens": REACH_LENGTH, "loaded_bytes": loaded, "calibrated_bytes": converted}
    (Path(__file__).parent / "memory.json").write_text(json.dumps(found) + "\n")
    print(
        f"model loaded {loaded / 1e9:.2f} GB, calibrated {converted / 1e9:.2f} GB: {(converted - loaded) / 1e9:.2f} GB above it"
    )


def peak(command: list[str]) -> int:
    """Bytes of resident memory that a process had at most."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:4]} failed")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
