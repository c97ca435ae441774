"""alibi convert against `cp -r` of the same folder, and against loading the model, changing it in memory and saving it.

A bfloat16 Llama of random weights (width 2,048) in five shards, in the page cache for all. The arms take turns, each in a process of
its own, and count by the least of several runs. The time of ours and of the baseline is that beyond `import torch, transformers`, and once
more beyond the import of a model class, which every program that touches a model pays. `cp` leaves its bytes in memory; `alibi convert`
flushes them, so both forms of `cp` are baselines. Memory is the peak of the process (VmHWM, mapped files included), on Linux alone.

In a virtual machine a copy may take several times as long when the host has taken back the memory that it writes to, which happens
within seconds. So the folder is copied and removed before every arm, and `cp` starts, in a process like the others, after a model
class was imported, as ours does.

python -m benchmarks.convert FILE.svg draws the memory for 0.5, 2 and 8 GB.
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.claims import Claim

WIDTH, INNER, HEADS, GROUPS, VOCABULARY, SHARDS = 2048, 5632, 32, 4, 32000, 5
MEGABYTES = 150  # above the import
# What a child does, and how much memory it held at most.
CHILD = """
import atexit, sys
def write_peak(file):
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(file, "w").write(line.split()[1])  # kB
atexit.register(write_peak, sys.argv[1])
import torch, transformers
{work}
"""
CONVERT = "sys.argv = ['alibi', 'convert', sys.argv[2], '-o', sys.argv[3], '--force', {option!r}]; from alibi_cli.cli import main; main()"
MODEL_CLASS = """
from transformers import AutoModelForCausalLM
from alibi_cli import apply_alibi
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype="auto")
apply_alibi(model, max_sequence_length=8192)
model.save_pretrained(sys.argv[3])
"""
IMPORT = "from transformers import PreTrainedModel"
COPY = f"""{IMPORT}
import os, subprocess
subprocess.run(["cp", "-r", *sys.argv[2:]], check=True)
"""
ARMS = {
    "start": "",
    "model class": IMPORT,
    "cp -r": COPY,
    "cp -r, flushed": COPY
    + "subprocess.run(['sync', *(os.path.join(sys.argv[3], name) for name in os.listdir(sys.argv[3]))], check=True)",
    "copied": CONVERT.format(option="--no-verify"),
    "verified": CONVERT.format(option="--verify"),
    "baseline": MODEL_CLASS,
}


def measure(short: bool, sizes: tuple[float, ...] = (), repeats: int = 0) -> Iterator[Claim]:
    """sizes: of the models, in GB."""
    peaks: dict[float, dict[str, float]] = {}
    for size in sizes or ((0.5,) if short else (0.5, 2)):
        seconds, peaks[size] = _run_all(size, repeats or 3)
        for ours, target in (("copied", 1.1), ("verified", 1.5)):
            name = f"convert {size:g} GB, {'not verified' if ours == 'copied' else 'verified'}"
            for beyond, where in (("start", ""), ("model class", ", beyond a model class")):
                taken = max(seconds[ours] - seconds[beyond], 1e-3)
                for baseline in ("cp -r", "cp -r, flushed"):
                    copying = max(seconds[baseline] - seconds["model class"], 1e-3)
                    yield Claim(
                        claim=name + where, against=baseline, unit="s", ours=taken, baseline=copying, target=target
                    )
            loading = seconds["baseline"] - seconds["start"]
            ours_beyond = seconds[ours] - seconds["start"]
            yield Claim(
                claim=name, against="load, change, save", unit="s", ours=ours_beyond, baseline=loading, target=1.0
            )
            above = peaks[size][ours] - peaks[size]["start"]
            yield Claim(
                claim=f"memory of {name}",
                against="above the import",
                unit="MB",
                ours=above,
                baseline=MEGABYTES,
                target=1.0,
            )
    first, *others = peaks
    for size in others:
        for ours in ("copied", "verified"):
            yield Claim(
                claim=f"memory of convert {size:g} GB, {ours}",
                against=f"of {first:g} GB",
                unit="MB",
                ours=peaks[size][ours],
                baseline=peaks[first][ours],
                target=1.05,
            )


def _run_all(size: float, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and peak megabytes of each arm."""
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", size)
        for _ in range(repeats):
            for arm in ARMS:
                taken, peak = run(arm, folder)
                seconds[arm] = min(seconds.get(arm, math.inf), taken)
                peaks[arm] = max(peaks.get(arm, 0.0), peak)
    return seconds, peaks


def run(arm: str, folder: Path) -> tuple[float, float]:
    model, output, peak = folder / "model", folder / "out", folder / "peak"
    shutil.copytree(model, output)
    shutil.rmtree(output)
    subprocess.run(["sync", "-f", str(folder)], check=True)  # what was written before is not flushed on this one's time
    command = [sys.executable, "-c", CHILD.format(work=ARMS[arm]), str(peak), str(model), str(output)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    taken = time.perf_counter() - started
    shutil.rmtree(output, ignore_errors=True)
    return taken, int(peak.read_text()) / 1000


def make_model(folder: Path, size: float) -> None:
    """A Llama of about `size` GB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layer = 2 * WIDTH * WIDTH * (1 + GROUPS / HEADS) + 3 * WIDTH * INNER
    layers = max(1, round((size * 1e9 / 2 - 2 * VOCABULARY * WIDTH) / layer))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    noise = (torch.randn(8 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    content = noise.view(torch.uint8).numpy().tobytes()
    total = 2 * sum(math.prod(shape) for shape in shapes.values())
    placed: dict[str, str] = {}
    names, begun = list(shapes), 0
    for shard in range(1, SHARDS + 1):
        file, inside, n_bytes = f"model-{shard:05}-of-{SHARDS:05}.safetensors", {}, 0
        while begun < len(names) and (n_bytes < total / SHARDS or shard == SHARDS):
            end = n_bytes + 2 * math.prod(shapes[names[begun]])
            inside[names[begun]] = {"dtype": "BF16", "shape": shapes[names[begun]], "data_offsets": [n_bytes, end]}
            placed[names[begun]] = file
            begun, n_bytes = begun + 1, end
        header = json.dumps(inside).encode()
        header += b" " * (-len(header) % 8)
        with (folder / file).open("wb") as writer:
            writer.write(len(header).to_bytes(8, "little") + header)
            for begin in range(0, n_bytes, len(content)):
                writer.write(content[: n_bytes - begin])
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main(picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes, arms = (0.5, 2.0, 8.0), {"copied": "not verified", "verified": "verified", "baseline": "load, change, save"}
    found = [_run_all(size, 1)[1] for size in sizes]
    for size, peaks in zip(sizes, found, strict=True):
        above = {label: round(peaks[arm] - peaks["start"]) for arm, label in arms.items()}
        print(f"{size:g} GB: MB above the import:", above)
    figure, axes = plt.subplots(figsize=(6, 4))
    for arm, label in arms.items():
        axes.plot(sizes, [peaks[arm] - peaks["start"] for peaks in found], marker="o", label=label)
    axes.axhline(MEGABYTES, color="grey", linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="weights, GB", ylabel="peak memory above the import, MB")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.legend()
    figure.savefig(picture, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1])
