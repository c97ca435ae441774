"""Converting and evaluating again and again in one process uses no more and more of anything."""

import shutil
from pathlib import Path

import psutil

from alibi_cli.text.documents import Text
from tests.checkpoint.helpers import convert
from tests.evaluation.helpers import asked, evaluate
from tests.fuzzing import cases, ran
from tests.models import save_tiny

WARM, MORE = 10, 1.05


def used() -> dict[str, int]:
    process = psutil.Process()
    return {"descriptors": process.num_fds(), "threads": process.num_threads(), "bytes": process.memory_info().rss}


def test_soak(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source", num_hidden_layers=1)
    text = Text("t", [(f"d{i}", f"{i} of the documents, each a little text of its own") for i in range(3)])
    before: dict[str, int] = {}
    for index in range(cases(25, 300)):
        convert(source, tmp_path / "out")
        results, _ = evaluate(asked([str(tmp_path / "out")], (8, 16), text, output=tmp_path / "r.json"))
        assert [row.status for row in results.rows] == ["ok", "ok"]
        shutil.rmtree(tmp_path / "out")
        for path in tmp_path.glob("r.*"):
            path.unlink()
        ran["soak: conversions and evaluations"] += 1
        if index + 1 == WARM:
            before = used()
    after = used()
    assert all(after[name] <= before[name] * MORE for name in before), (before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
