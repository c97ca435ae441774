"""mergekit: a linear merge of two converted checkpoints."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.ecosystem.checkpoints import Checkpoint, Way, apart, log_probabilities, text_tokens

RUN = "{}import runpy; runpy.run_module('mergekit.scripts.run_yaml', run_name='__main__')"


def test_linear_merge(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    other, config = tmp_path / "other", tmp_path / "merge.yml"
    shutil.copytree(checkpoint.folder, other)
    first = load_file(checkpoint.folder / "model.safetensors")
    second = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in first.items()}
    save_file(second, other / "model.safetensors", metadata={"format": "pt"})
    models = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in (checkpoint.folder, other)]
    config.write_text(yaml.safe_dump({"models": models, "merge_method": "linear", "dtype": "float32"}))
    script = RUN.format("" if way.trusts else "import alibi_cli; ")
    command = [
        sys.executable,
        "-c",
        script,
        str(config),
        str(tmp_path / "merged"),
        *(["--trust-remote-code"] if way.trusts else []),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    merged = load_file(next((tmp_path / "merged").glob("*.safetensors")))
    assert merged.keys() == first.keys()
    difference = max(apart(merged[name], (first[name] + second[name]) / 2) for name in first)
    control = min(apart(merged[name], first[name]) for name in first)
    assert difference < 1e-7 < control
    record("mergekit", "linear merge: tensors, their means", difference, control)
    mean = way.model(checkpoint.folder)
    mean.load_state_dict({**mean.state_dict(), **{name: (first[name] + second[name]) / 2 for name in first}})
    tokens = text_tokens()
    assert apart(log_probabilities(way.model(tmp_path / "merged"), tokens), log_probabilities(mean, tokens)) < 1e-5
