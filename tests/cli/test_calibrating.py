"""Calibrated slopes on the command line: what is said meanwhile, what is found, what is written."""

import json
import re

import pytest

from alibi_cli import time_left
from alibi_cli.calibration import added
from alibi_cli.calibration import calibrate as run
from alibi_cli.calibration.extrapolation import Beyond
from alibi_cli.calibration.reach import fit_reach
from alibi_cli.settings.conversion import CalibrateSettings
from tests.cli.run import alibi_here
from tests.models import save_tiny

pytestmark = pytest.mark.usefixtures("quick_calibration")

ADD = ("--policy", "add")
CALIBRATED = ("--slopes", "calibrated")


def test_what_is_said_before_and_meanwhile_where_stderr_is_no_terminal(sources, tmp_path, text, monkeypatch):
    monkeypatch.setattr(time_left, "LONG", -1.0)  # worth a line, however short
    out = tmp_path / "out"
    result = alibi_here(
        "convert",
        sources["llama"],
        "-o",
        out,
        *ADD,
        *CALIBRATED,
        "--calibrate",
        "distil",
        "--json",
        "--no-verify",
        *text,
    )
    assert json.loads(result.stdout)["calibration"]["method"] == "distil"  # nothing but JSON
    said = result.stderr.splitlines()
    assert said[0].startswith("Calibrating by distil: about 2,500 tokens in 26 windows of 96, and 0.0 GB of memory.")
    for stage in ("Fitting the slopes", "Distilling"):
        assert sum(bool(re.fullmatch(rf"{stage}: about \d+ s left\.", line)) for line in said) == 1


def test_a_plain_conversion_leaves_an_interrupted_calibration_alone(sources, tmp_path, text):
    kept = tmp_path / "out.calibration"
    kept.mkdir()
    (kept / "reach.pt").write_bytes(b"damaged")
    (kept / "mine.txt").touch()
    assert alibi_here("convert", sources["llama"], "-o", tmp_path / "out", "--no-verify").exit_code == 0
    assert (kept / "reach.pt").exists()
    options = ("-o", tmp_path / "out", "--force", "--no-verify", *ADD, *CALIBRATED, *text)
    result = alibi_here("convert", sources["llama"], *options)
    assert result.exit_code == 0 and f"{kept} is of another calibration" in result.stderr
    assert [path.name for path in kept.iterdir()] == ["mine.txt"]


def test_encoders_are_calibrated_under_add(sources, tmp_path, text):
    source = sources["esm"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"mask_token": "<|endoftext|>"})
    tokenizer.save_pretrained(source)
    result = alibi_here(
        "convert", source, "-o", tmp_path / "out", *ADD, *CALIBRATED, "--calibrate", "distil", "--json", *text
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    kl = report["calibration"]["kl_nats_per_token"]
    assert report["verified"]["passed"] and set(kl["start"]) == {"24", "48", "96"}
    assert sum(kl["end"].values()) <= sum(kl["start"].values()) * 1.01  # there is little to gain


def test_reach_is_fitted_on_what_was_asked_for(sources, tmp_path, text, monkeypatch):
    fed = []
    monkeypatch.setattr(added, "fit_reach", lambda model, ids, *rest: fed.append(ids) or fit_reach(model, ids, *rest))
    out = tmp_path / "out"
    options = (*ADD, *CALIBRATED, "--horizon", "12", "--calibration-length", "60", "--calibration-tokens", "300")
    result = alibi_here("convert", sources["llama"], "-o", out, *options, "--no-verify", "--json", *text)
    report = json.loads(result.stdout)
    assert fed[0].shape == (5, 60) and report["calibration"]["tokens"] == 300
    assert report["calibration"]["range"] == 12 and report["offsets"] == [[12.0] * 6] * 2
    assert report["trained_length"] == 24 and report["max_sequence_length"] == report["calibration"]["up_to"] == 96


@pytest.mark.parametrize(("options", "length"), [((), 96), (("--max-sequence-length", "4000"), 4000)])
def test_reach_hides_distances_up_to_the_declared_length(options, length, sources, tmp_path, text, monkeypatch):
    given = []
    monkeypatch.setattr(
        added, "fit_reach", lambda model, ids, *rest: given.append(rest[-1]) or fit_reach(model, ids, *rest)
    )
    options = (*ADD, *CALIBRATED, *options, "--no-verify", "--json", *text)
    result = alibi_here("convert", sources["llama"], "-o", tmp_path / "out", *options)
    assert given == [Beyond(trained_length=24, length=length)]
    assert json.loads(result.stdout)["calibration"]["up_to"] == length


@pytest.mark.parametrize(
    ("kind", "options", "up_to"),
    [
        ("default", ("--max-sequence-length", "10"), 36),  # windows are longer than what is declared
        ("default", ("--max-sequence-length", "4000", "--calibrate", "distil"), 96),  # which learns from its windows
        ("dynamic", (), 36),  # at another length its rotation is another one
    ],
)
def test_up_to_is_what_calibration_has_seen(kind, options, up_to, tmp_path, text):
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}
    source = save_tiny("llama", tmp_path / "source", **(dynamic if kind == "dynamic" else {}))
    options = (*ADD, *CALIBRATED, *options, "--no-verify", "--json", *text)
    report = json.loads(alibi_here("convert", source, "-o", tmp_path / "out", *options).stdout)
    assert report["calibration"]["up_to"] == up_to


def test_what_replaces_positions_is_resumed_whatever_length_is_declared():
    replace, add = (
        [run.facts_of(CalibrateSettings(policy=policy, max_sequence_length=n)) for n in (None, 4000)]
        for policy in ("replace", "add")
    )
    assert replace[0] == replace[1] and add[0] != add[1]
