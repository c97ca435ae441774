"""Results of 0.1.0 are read, and resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from alibi_cli import AlibiError
from alibi_cli.evaluation.results_file import load_results
from alibi_cli.text.documents import Text
from tests.evaluation.helpers import LENGTHS, asked, evaluate

OLD_FILE = Path(__file__).parent / "data" / "results-0.1.0.json"


def test_a_file_of_0_1_0_is_read(tmp_path: Path) -> None:
    """Written by 0.1.0 at commit 1c5fef8, with rows of the arm "crop" and digests over that word."""
    path = tmp_path / "old.json"
    shutil.copy(OLD_FILE, path)
    shutil.copy(OLD_FILE.with_suffix(".nll.safetensors"), path.with_suffix(".nll.safetensors"))
    written = json.loads(path.read_text())
    assert {row["arm"] for row in written["rows"]} == {"full", "crop"}
    results = load_results(path)
    assert [row.arm for row in results.rows] == [
        {"crop": "truncated"}.get(row["arm"], row["arm"]) for row in written["rows"]
    ]
    assert set(results.record) == {row.key for row in results.rows if row.status == "ok"}
    results.plot(tmp_path / "old.svg")
    for row in written["rows"]:
        if row["arm"] == "crop":
            row["nll"] += 1e-3
    path.write_text(json.dumps(written))
    with pytest.raises(AlibiError, match="was changed after"):
        load_results(path)


def test_a_file_of_0_1_0_is_resumed(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    """As it would look on this machine: old words, digests over them, no new keys."""
    from safetensors.numpy import save_file

    from alibi_cli.evaluation import results_file

    llama, path = checkpoints["llama"], tmp_path / "r.json"
    before, record = evaluate(asked([llama], LENGTHS, text, output=path))
    written = json.loads(path.read_text())
    record = {key: replace(scored, byte_begin=None, byte_end=None) for key, scored in record.items()}
    for row, new in zip(written["rows"], before.rows, strict=True):
        del row["arm_settings"]
        row["arm"] = row["arm"].replace("truncated", "crop")
        row["sha256"] = results_file.digest(new.model_copy(update={"arm": row["arm"]}), record[new.key])
        new.sha256 = results_file.digest(new, record[new.key])
    for new_key in ("segments", "segments_available"):
        del written["models"][0][new_key]
    del written["protocol"]["segments_seed"]
    path.write_text(json.dumps(written))
    losses = path.with_suffix(".nll.safetensors")
    tensors, n_bytes = {}, {}
    for key, scored in record.items():
        old = "|".join(map(str, key)).replace("|truncated|", "|crop|")
        n_bytes[old] = scored.n_bytes
        tensors |= {f"{old}|{name}": getattr(scored, name) for name in results_file.FIELDS}
    save_file(tensors, losses, metadata={"n_bytes": json.dumps(n_bytes)})
    seen: list[str] = []
    request = asked([llama], LENGTHS, text, output=path, resume=True, arms=("truncated", "window"))
    after, _ = evaluate(request, lambda what, *_: seen.append(what))
    assert {what.split(" at ")[0] for what in seen if " at " in what} == {f"{llama}:window"}  # the new arm alone
    assert [row for row in after.rows if row.arm != "window"] == before.rows
    assert {row["arm"] for row in json.loads(path.read_text())["rows"]} == {"full", "truncated", "window"}
    again = load_results(path)
    known = {key.arm: scored.byte_end is not None for key, scored in again.record.items()}
    assert known == {"full": False, "truncated": False, "window": True}
    assert again.document_names == [name for name, _ in text.documents]
