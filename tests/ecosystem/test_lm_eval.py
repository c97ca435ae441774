"""lm-evaluation-harness: bits per byte of its rolling log-likelihood, against `alibi eval --protocol lm-eval`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.cli.run import alibi_json
from tests.ecosystem.checkpoints import TEXT, Checkpoint, Way

RUN = "{}import runpy; runpy.run_module('lm_eval', run_name='__main__')"
LENGTH = 128


def test_bits_per_byte(checkpoint: Checkpoint, way: Way, record: Any, tmp_path: Path) -> None:
    text = TEXT * 8
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "text.json").write_text(json.dumps({"text": text}))
    task = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "text.json")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(yaml.safe_dump(task))
    script = RUN.format("" if way.trusts else "import alibi_cli; ")
    found = []
    for folder in (checkpoint.folder, checkpoint.steeper):
        model = f"pretrained={folder},max_length={LENGTH},dtype=float32" + (
            ",trust_remote_code=True" if way.trusts else ""
        )
        options = {
            "--model": "hf",
            "--model_args": model,
            "--tasks": "mine",
            "--include_path": tmp_path / "tasks",
            "--device": "cpu",
        }
        options |= {"--output_path": tmp_path / folder.name, "--batch_size": 1}
        command = [sys.executable, "-c", script, *(str(word) for pair in options.items() for word in pair)]
        env = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=300
        )
        assert result.returncode == 0, result.stderr
        (file,) = (tmp_path / folder.name).rglob("results*.json")
        found.append(json.loads(file.read_text())["results"]["mine"]["bits_per_byte,none"])
    options = (
        "--protocol",
        "lm-eval",
        "--lengths",
        str(LENGTH),
        "--text",
        tmp_path / "text.txt",
        "--output",
        tmp_path / "r.json",
    )
    ours = alibi_json("eval", checkpoint.folder, *options)["rows"][0]["bits_per_byte"]
    difference, control = (abs(each - ours) for each in found)
    assert difference < 1e-5 < control
    record(
        "lm_eval", "bits per byte of a rolling log-likelihood, by `alibi eval --protocol lm-eval`", difference, control
    )
