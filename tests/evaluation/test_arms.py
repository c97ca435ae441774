"""Arms: where they apply, what they refuse, which rows they are."""

import math
from pathlib import Path

import numpy as np
import pytest

from alibi_cli import AlibiError, apply_alibi
from alibi_cli.evaluation.arms import arm_of, parse_arm, split_arm
from alibi_cli.plots.results_plot import APART, labelled
from alibi_cli.settings.presets import parse_preset
from alibi_cli.settings.shared import parse_names
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside
from tests.evaluation.helpers import LENGTHS, asked, evaluate
from tests.models import OLD_MAX, save_tiny, tiny_model

ROTATIONS = ("linear", "dynamic", "yarn")


def test_names() -> None:
    assert parse_names("none") == () and parse_names("yarn, window:1024,yarn") == ("yarn", "window:1024")
    for wrong in (
        "crop",
        "yarn:4",
        "truncated:5",
        "window:",
        "window:x",
        "window:0",
        "window+sinks:4",
        "streaming:4",
        "",
        "full",
    ):
        with pytest.raises(AlibiError) as error:
            [parse_arm(name) for name in parse_names(wrong)]
        assert error.value.exit_code == 2
    assert parse_arm("window+sinks:5").settings(24, 48) == {"window": 1, "sinks": 4}
    assert parse_arm("window+sinks").settings(8192, 16384) == {"window": 8188, "sinks": 4}
    assert parse_arm("streaming:1024").settings(8192, 16384) == {"window": 1020, "sinks": 4}
    assert parse_arm("yarn").settings(8192, 16384) == {"factor": 2.0}


def test_presets_may_name_arms() -> None:
    preset = "command: eval\ndescription: d\nsettings:\n  lengths: 512:2048\n  arms: {}\n"
    assert parse_preset(preset.format("truncated,window+sinks"), "x.yaml")[2]["arms"] == "truncated,window+sinks"
    with pytest.raises(AlibiError, match="arms"):
        parse_preset(preset.format("3"), "x.yaml")


def test_only_names_of_arms_are_split_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_arm("gpt2:window+sinks") == ("gpt2", "window+sinks")
    assert split_arm("a:b:window:1024") == ("a:b", "window:1024")
    assert split_arm("a:streaming:8") == ("a", "streaming:8") and split_arm("a:streaming") == ("a", "streaming")
    assert split_arm("C:/models/x:truncated") == ("C:/models/x", "truncated")
    for whole in ("gpt2", "a:b", "a:crop", "yarn", "a:windows", "a:yarn:4", "a:truncated:9"):
        assert split_arm(whole) == (whole, None)
    monkeypatch.chdir(tmp_path)
    Path("model:yarn").mkdir()
    assert split_arm("model:yarn") == ("model:yarn", None)


def arms_of(results, model: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in results.rows:
        if row.model == model:
            found.setdefault(row.arm, []).append(row.length)
    return found


ALL = ("truncated", "window", "window+sinks", "streaming", *ROTATIONS)


def test_rows_of_all_arms(checkpoints: dict[str, str], text: Text) -> None:
    llama, converted = checkpoints["llama"], checkpoints["llama-alibi"]
    lengths = (12, OLD_MAX, 36, 48)
    results, record = evaluate(asked([llama, converted], lengths, text, baseline=llama, arms=(*ALL, "window:12")))
    arms = arms_of(results, llama)
    assert arms == {"full": list(lengths), **{arm: [36, 48] for arm in ALL}, "window:12": [24, 36, 48]}
    assert arms_of(results, converted) == {"full": list(lengths)}
    assert all(row.status == "ok" for row in results.rows)
    keys = list(record)
    assert all(record[key].same_tokens(record[keys[0]]) for key in keys)
    at = {(row.arm, row.length): row for row in results.rows if row.model == llama}
    assert at["yarn", 36].arm_settings == {"factor": 1.5} and at["linear", 48].arm_settings == {"factor": 2.0}
    assert at["window+sinks", 48].arm_settings == {"window": 20, "sinks": 4} and at["full", 48].arm_settings is None
    assert len({at[arm, 48].nll for arm in ("full", *ALL)}) == len(ALL) + 1  # none is another in disguise
    again, _ = evaluate(asked([llama], lengths, text, arms=("window+sinks",)))  # alone, in another order of arms
    assert [row.nll for row in again.rows if row.arm != "full"] == [at["window+sinks", n].nll for n in (36, 48)]
    against = {c.baseline_arm for c in results.contrasts if c.baseline == llama and c.length == 48}
    assert against == {"full", *ALL, "window:12"}


def test_arms_on_and_off(checkpoints: dict[str, str], text: Text) -> None:
    llama, gpt2, converted = checkpoints["llama"], checkpoints["gpt2"], checkpoints["llama-alibi"]
    assert set(arms_of(evaluate(asked([llama], LENGTHS, text))[0], llama)) == {"full", "truncated"}
    assert set(arms_of(evaluate(asked([llama], LENGTHS, text, arms=()))[0], llama)) == {"full"}
    one, _ = evaluate(asked([gpt2, converted], LENGTHS, text, baseline=f"{gpt2}:truncated", arms=()))
    assert arms_of(one, gpt2) == {"full": list(LENGTHS), "truncated": [48]}
    against = {(c.length, c.baseline_arm) for c in one.contrasts if c.baseline == gpt2}
    assert against == {(12, "full"), (24, "full"), (48, "truncated")}


@pytest.mark.parametrize(
    ("family", "arm", "says"),
    [
        ("gpt2", "linear", "no rotary positions"),
        ("gpt2", "window", "embeddings for 24 positions"),
        ("gpt2", "window:24", "embeddings for 24 positions"),
        ("gpt2", "window:12", None),
        ("gptj", "window+sinks:12", "attention interface"),
        ("falcon", "window", "attention interface"),
        ("falcon", "yarn", None),
        ("mistral", "window+sinks", "a window of 7 tokens of their own"),
        ("mistral", "window:5", None),
        ("llama-yarn", "dynamic", "rope_type yarn"),
        ("llama-yarn", "window", None),
    ],
)
def test_what_a_model_cannot_have_is_a_line_with_its_name(
    family: str, arm: str, says: str | None, tmp_path: Path
) -> None:
    folder = save_tiny(family, tmp_path / "the-model")
    options = ["--lengths", "12,24", "--max-segments", "2", "--arms", arm]
    result = alibi_inside("eval", folder, *options, code=0 if says is None else 2)
    if says is not None:
        assert says in result.stderr and "the-model" in result.stderr and f"the arm {arm}" in result.stderr
        assert result.stdout == "" and "Traceback" not in result.stderr


def test_converted_models_have_no_arms(checkpoints: dict[str, str], text: Text) -> None:
    converted = checkpoints["llama-alibi"]
    with pytest.raises(AlibiError, match="all of these are converted") as error:
        evaluate(asked([converted], LENGTHS, text, arms=("window",)))
    assert error.value.exit_code == 2
    with pytest.raises(AlibiError, match="it is converted"):
        evaluate(asked([checkpoints["llama"]], LENGTHS, text, baseline=f"{converted}:window"))
    model = tiny_model("llama")
    apply_alibi(model, 64)
    with pytest.raises(AlibiError, match="ALiBi"), arm_of(model, "window", trained_length=24, length=48):
        pass


def test_labels_of_lengths_have_room() -> None:
    assert labelled([512, 1024, 2048, 4096, 8192]) == [512, 1024, 2048, 4096, 8192]
    crowded = [512, 768, 1000, 1024, 1100, 8192, 9000, 16384]
    kept = labelled(crowded)
    gaps = np.diff(np.log(kept)) / math.log(crowded[-1] / crowded[0])
    assert kept[-1] == 16384 and set(kept) < set(crowded) and gaps.min() >= APART
    assert labelled([512]) == [512]


def test_a_picture_of_all_arms(checkpoints: dict[str, str], tmp_path: Path) -> None:
    picture = tmp_path / "r.svg"
    command = ["eval", checkpoints["llama-alibi"], "--baseline", f"{checkpoints['llama']}:window+sinks"]
    arms = ["--arms", ",".join(ALL), "--lengths", "24,36,48", "--max-segments", "20", "--plot", picture]
    result = alibi_inside(*command, *arms)
    assert "llama:window+sinks" in result.stdout and "latest 20, first 4" in result.stdout
    assert "latest 20, first 4 moved" in result.stdout
    assert "factor 1.5" in result.stdout and "than window+sinks" in result.stdout and "than yarn" not in result.stdout
    drawn = picture.read_text()
    assert drawn.startswith("<?xml") and all(f":{arm}" in drawn for arm in ALL)
