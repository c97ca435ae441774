"""Runs that are interrupted, repeated, or run twice at once: what is reused, and what is refused."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import alibi_cli
from alibi_cli import AlibiError, UsageError
from alibi_cli.files.lock import exclusive
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside
from tests.evaluation.helpers import LENGTHS, asked, evaluate, without_times
from tests.models import save_tiny


def test_an_interrupted_run_resumes_to_the_same_file(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    models = [checkpoints["llama"], checkpoints["llama-alibi"]]
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    evaluate(asked(models, LENGTHS, text, baseline=models[0], output=whole))
    seen = []

    def stop_at_the_second_model(description: str, done: float, total: float) -> None:
        if description.startswith(f"{models[1]} at {LENGTHS[1]}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(asked(models, LENGTHS, text, baseline=models[0], output=broken), stop_at_the_second_model)
    assert 0 < len(json.loads(broken.read_text())["rows"]) < len(json.loads(whole.read_text())["rows"])
    evaluate(asked(models, LENGTHS, text, baseline=models[0], output=broken, resume=True), lambda d, *_: seen.append(d))
    assert not any(d.startswith(f"{models[0]} at") for d in seen), "finished rows were computed again"
    assert without_times(json.loads(broken.read_text())) == without_times(json.loads(whole.read_text()))
    a, b = load_file(tmp_path / "whole.nll.safetensors"), load_file(tmp_path / "broken.nll.safetensors")
    assert set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.json",
        "broken.nll.safetensors",
        "whole.json",
        "whole.nll.safetensors",
    ]


def test_resuming_something_else_is_refused(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    model, output = checkpoints["llama-alibi"], tmp_path / "r.json"
    request = dict(models=[model], lengths=LENGTHS, text=text, output=output)
    evaluate(asked(**request))
    with pytest.raises(AlibiError, match=r"r\.json exists"):
        evaluate(asked(**request))
    other = Text("sample", [*text.documents[:-1], ("x", "y" * 400)])
    for change, says in (
        (dict(text=other), "text.sha256"),
        (dict(protocol="non-overlapping"), "protocol.name"),
        (dict(targets=3), "protocol.targets"),
        (dict(dtype="float64"), "protocol.dtype"),
        (dict(max_segments=3), "protocol.max_segments"),
    ):
        with pytest.raises(AlibiError, match=says) as error:
            evaluate(asked(**{**request, **change, "resume": True}))
        assert error.value.exit_code == 2
    more, _ = evaluate(asked(**{**request, "lengths": (12, 18, *LENGTHS[1:]), "resume": True}))
    assert [row.length for row in more.rows] == [12, 18, 24, 48]
    for broken in ({}, {**json.loads(output.read_text()), "models": []}):
        output.write_text(json.dumps(broken))
        with pytest.raises(AlibiError, match="can be read"):
            evaluate(asked(**{**request, "resume": True}))


def test_segments_of_an_earlier_version_are_not_continued(
    checkpoints: dict[str, str], text: Text, tmp_path: Path
) -> None:
    """0.1.0 took the first segments of each document, and its files do not name a seed."""
    output = tmp_path / "r.json"
    request = asked([checkpoints["llama-alibi"]], LENGTHS, text, output=output, max_segments=3)
    evaluate(request)
    again, _ = evaluate({**request, "lengths": (12, 18, *LENGTHS[1:]), "resume": True})
    assert len({row.scored_set_sha256 for row in again.rows}) == 1 and again.protocol.segments_seed == 0
    written = json.loads(output.read_text())
    del written["protocol"]["segments_seed"]
    output.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=r"protocol\.segments_seed: None -> 0"):
        evaluate({**request, "resume": True})


def test_a_changed_model_is_refused(text: Text, tmp_path: Path) -> None:
    folder, output = save_tiny("gpt2", tmp_path / "m"), tmp_path / "r.json"
    evaluate(asked([str(folder)], (8, 12), text, output=output))
    save_tiny("gpt2", folder, initializer_range=0.3)
    with pytest.raises(AlibiError, match="digest"):
        evaluate(asked([str(folder)], (8, 10, 12), text, output=output, resume=True))


@pytest.mark.parametrize("verb", [["eval"], ["task", "passkey", "--samples", "1"]])
def test_two_runs_at_once_on_one_output(
    verb: list[str], checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*verb, checkpoints["llama-alibi"], "--lengths", "512", "--output", "r.json"]
    with exclusive(Path("r.json")):
        result = alibi_inside(*command, code=1)
        assert result.stderr.startswith("Error: Another run is writing r.json.") and not Path("r.json").exists()
    if verb[0] == "task":  # the lock is gone
        alibi_inside(*command)
        assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_nothing_is_left_of_a_file_that_cannot_be_written(
    checkpoints: dict[str, str], text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alibi_cli.evaluation.results_file.save_file", full)
    with pytest.raises(AlibiError, match="No space left"):
        evaluate(asked([checkpoints["gpt2-alibi"]], (8,), text, output=tmp_path / "r.json"))
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_model_that_changed_are_never_reused(text: Text, tmp_path: Path) -> None:
    a, b, output = save_tiny("gpt2", tmp_path / "a"), save_tiny("llama", tmp_path / "b"), tmp_path / "r.json"
    evaluate(asked([str(a)], (8, 12), text, output=output))
    evaluate(asked([str(b)], (8, 12), text, output=output, resume=True))
    assert {row["model"] for row in json.loads(output.read_text())["rows"]} == {str(a), str(b)}
    save_tiny("gpt2", a, initializer_range=0.3)
    with pytest.raises(AlibiError, match="digest"):
        evaluate(asked([str(a)], (8, 12), text, output=output, resume=True))


def test_rows_without_their_record_are_computed_again(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    request = asked([checkpoints["llama-alibi"]], (8, 12), text, output=tmp_path / "r.json", resume=True)
    before, _ = evaluate(request)
    (tmp_path / "r.nll.safetensors").unlink()
    after, record = evaluate(request)
    assert [row.nll for row in after.rows] == [row.nll for row in before.rows] and len(record) == 2
    (tmp_path / "r.nll.safetensors").write_bytes(b"damaged")
    with pytest.raises(AlibiError, match="can be read"):
        evaluate(request)


def test_a_file_without_its_record_is_no_results(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    whole, alone = tmp_path / "r.json", tmp_path / "alone.json"
    evaluate(asked([checkpoints["llama"]], (8, 12), text, output=whole))
    alone.write_text(whole.read_text())
    with pytest.raises(UsageError, match=r"figures of 2 rows whose record is not in .*alone.nll.safetensors"):
        alibi_cli.load_results(alone)
    found = alibi_cli.load_results(alone, incomplete=True)
    assert found.rows == found.contrasts == []
    refused = alibi_inside("report", alone, code=2)
    assert "whose record is not in" in refused.stderr and refused.stdout == ""
    newer = json.loads(whole.read_text()) | {"schema_version": 99}
    whole.write_text(json.dumps(newer))
    with pytest.raises(UsageError, match="a newer alibi-cli wrote them"):
        alibi_cli.load_results(whole)


def test_two_results_never_share_a_record(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    results, _ = evaluate(asked([checkpoints["llama"]], (8,), text))
    with pytest.raises(UsageError, match=r"run-0.5 must end in .json"):
        results.save(tmp_path / "run-0.5")
    assert list(tmp_path.iterdir()) == []
