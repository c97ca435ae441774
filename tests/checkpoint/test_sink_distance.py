"""From where sinks are seen at most: in the plan, config.json, alibi.json and the card, and what verification and audit make of it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alibi_cli import AlibiError
from alibi_cli.conversion import reload_check
from alibi_cli.conversion.verify import verify
from alibi_cli.conversion.writer import write
from alibi_cli.files.copying import sha256_of
from tests.checkpoint.helpers import at_stage, convert, plan_of
from tests.models import OLD_MAX, save_tiny


def written(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def edit(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps({**written(folder, "config.json"), **changes}))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_it_is_the_trained_length_and_every_file_says_so(family: str, tmp_path: Path) -> None:
    source = save_tiny(family, tmp_path / "source")
    plan = plan_of(source, tmp_path / "out", policy="add", sinks=2)
    assert plan.report().sink_distance == OLD_MAX
    report = write(plan)
    assert report.verified.passed and report.sink_distance == OLD_MAX
    assert written(tmp_path / "out", "alibi.json")["sink_distance"] == OLD_MAX
    assert written(tmp_path / "out", "config.json")["alibi_sink_distance"] == OLD_MAX
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| attention sinks | 2, seen from at most {OLD_MAX} tokens |" in card
    assert verify(tmp_path / "out").passed
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    tokens = torch.randint(0, 200, (1, 2 * OLD_MAX), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        near = model(tokens, use_cache=False).logits
        model.config.alibi_sink_distance = None
        far = model(tokens, use_cache=False).logits
    assert (near - far)[:, OLD_MAX + 1 :].abs().max() > 1e-3
    assert torch.equal(near[:, : OLD_MAX + 1], far[:, : OLD_MAX + 1])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("t5", {"policy": "add", "sinks": 2}),
        ("falcon", {"policy": "add", "sinks": 2}),
        ("llama", {"policy": "add"}),
        ("llama", {"sinks": 2}),
    ],
)
def test_there_is_none_without_a_rotation_to_turn_or_without_sinks(family: str, settings: dict, tmp_path: Path) -> None:
    report = convert(save_tiny(family, tmp_path / "source"), tmp_path / "out", **settings)
    assert report.verified.passed and report.sink_distance is None
    assert "alibi_sink_distance" not in written(tmp_path / "out", "config.json")
    assert written(tmp_path / "out", "alibi.json")["sink_distance"] is None
    assert "seen from at most" not in (tmp_path / "out" / "README.md").read_text()
    assert verify(tmp_path / "out").passed


@pytest.mark.parametrize("value", [OLD_MAX + 1, None])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_another_distance_than_the_plan_says_is_not_given_the_final_name(
    value: int | None, large: bool, tmp_path: Path, monkeypatch
) -> None:
    if large:
        monkeypatch.setattr(reload_check, "WHOLE_BYTES", 0)
    source = save_tiny("llama", tmp_path / "source", num_hidden_layers=6)
    plan = plan_of(source, tmp_path / "out", policy="add", sinks=2)
    with pytest.raises(AlibiError, match="does not hold the slopes and sinks"):
        write(
            plan,
            progress=at_stage("Verifying", lambda: edit(tmp_path / "out.partial", alibi_sink_distance=value)),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [OLD_MAX + 1, None])
def test_an_audit_notices_another_distance(value: int | None, tmp_path: Path) -> None:
    convert(save_tiny("llama", tmp_path / "source"), tmp_path / "out", check=False, policy="add", sinks=2)
    edit(tmp_path / "out", alibi_sink_distance=value)
    facts = json.loads((tmp_path / "out" / "alibi.json").read_text())
    facts["files"]["config.json"] = sha256_of(tmp_path / "out" / "config.json")  # who changes both
    (tmp_path / "out" / "alibi.json").write_text(json.dumps(facts))
    details = {finding.file: finding.detail for finding in verify(tmp_path / "out").findings if finding.status != "ok"}
    assert details == {"config.json": "sink_distance is not what alibi.json says"}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("cohere2", {"layer_types": ["full_attention"] * 2}),
        ("smollm3", {"no_rope_layers": [0, 0]}),
    ],
)
def test_a_model_none_of_whose_layers_rotates_needs_none(family: str, changes: dict, tmp_path: Path) -> None:
    """Found by random models: the family can turn a rotation back, and this member of it has none."""
    source = save_tiny(family, tmp_path / "source", **changes)
    report = convert(source, tmp_path / "out", policy="add", sinks=1)
    assert report.verified.passed and report.sink_distance is None and verify(tmp_path / "out").passed
