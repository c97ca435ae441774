"""accelerate: two processes, and weights that stay on disk."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.ecosystem.checkpoints import Checkpoint, Way, apart, log_probabilities, text_tokens


def gradients(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    model(input_ids=tokens, labels=tokens).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_two_processes(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    tokens, output = text_tokens(40, batch=4), tmp_path / "out"
    Path(f"{output}.tokens").write_text(json.dumps(tokens.tolist()))
    script, how = Path(__file__).parent / "data_parallel.py", "carried" if way.trusts else "installed"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(script), str(checkpoint.folder), str(output), how]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parent.parent.parent
    )
    assert result.returncode == 0 and result.stdout.split() == ["2", "2"], result.stderr
    found = torch.load(f"{output}.gradients")
    expected = gradients(way.model(checkpoint.folder), tokens)
    half = gradients(way.model(checkpoint.folder), tokens[:2])
    difference = max(apart(found[name], expected[name]) for name in expected)
    control = max(apart(half[name], expected[name]) for name in expected)
    assert difference < 1e-5 < control
    assert (
        apart(log_probabilities(way.model(output), tokens), log_probabilities(way.model(checkpoint.folder), tokens))
        == 0
    )
    record("accelerate", "two processes: gradient, of the whole batch in one", difference, control)


def test_weights_on_disk(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    layers = "transformer.h" if checkpoint.name == "demo-gpt2" else "model.layers"
    tokens = text_tokens()
    names = [name for name, _ in way.model(checkpoint.folder).named_children()]
    inner = layers.split(".", maxsplit=1)[0]
    places = {name: "cpu" for name in names if name != inner}
    places |= {
        f"{inner}.{name}": "cpu" for name, _ in getattr(way.model(checkpoint.folder), inner).named_children()
    } | {layers: "disk"}
    expected, found = checkpoint.textbook(tokens), []
    for folder in (checkpoint.folder, checkpoint.steeper):
        model = way.model(folder, device_map=places, offload_folder=str(tmp_path / "offload"))
        assert "disk" in model.hf_device_map.values()
        found.append(apart(log_probabilities(model, tokens), expected))
    difference, control = found
    assert difference < 1e-4 < control
    record("accelerate", "layers offloaded to disk: log-probabilities, by the definition", difference, control)
