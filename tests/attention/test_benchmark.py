"""The benchmark: figures that are what they claim, and the command around it."""

import subprocess
from pathlib import Path

import pytest
import torch

from alibi_cli import bench_attention
from alibi_cli.attention.benchmark import peak_of_allocations
from alibi_cli.attention.registry import attention_names, config_of
from tests.cli.run import alibi, alibi_inside, alibi_json

SMALL = ("--lengths", "32:64", "--heads", "2", "--head-dim", "8", "--repeats", "2")


def test_peak_is_the_highest_sum_held_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.empty(250_000)  # 1 MB
        del first
        second = torch.empty(500_000)  # 2 MB, alone
        third = torch.empty(250_000)
        del second
        return third

    assert peak_of_allocations(call) == 3_000_000
    held = torch.empty(1_000_000)
    assert peak_of_allocations(lambda: held) == 0


def test_rows_ratios_and_errors() -> None:
    results = bench_attention(lengths=(32, 64), heads=2, head_dim=8, repeats=2)
    by_key = {(row.backend, row.length): row for row in results.rows}
    assert set(by_key) == {(name, length) for name in ("plain", *attention_names()) for length in (32, 64)}
    for (name, length), row in by_key.items():
        plain = by_key["plain", length]
        assert row.seconds_ratio == pytest.approx(row.seconds / plain.seconds)
        assert row.peak_ratio == pytest.approx(row.peak_bytes / plain.peak_bytes)
        assert row.status == "ok" and row.seconds > 0
        assert row.note.startswith("blocked: ") if name == "auto" else row.note == ""
        if name != "plain" and length == 32:
            assert 0 < row.max_error <= config_of(name).tolerance["float32"]
        else:
            assert row.max_error is None
    assert by_key["eager", 64].peak_bytes > 2 * 64 * 64 * 4  # at least the scores


def test_command(tmp_path: Path) -> None:
    result: subprocess.CompletedProcess[str] = alibi("bench", "attention", *SMALL, "--plot", tmp_path / "a.png")
    assert "time ratio" in result.stdout and "sdpa" in result.stdout and result.stderr == ""
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = alibi_json("bench", "attention", *SMALL, "--backends", "sdpa", run=alibi_inside)
    assert [row["backend"] for row in found["rows"]] == ["plain", "sdpa"] * 2 and found["heads"] == 2
    assert "Did you mean folded" in alibi_inside("bench", "attention", "--backends", "foldet", code=2).stderr
    assert "every run" in alibi_inside("bench", "attention", "--backends", "plain", code=2).stderr
    assert alibi_inside("bench", "attention", "--plot", tmp_path / "a.gif", code=2).stdout == ""
