"""One rule for what a legal slope is, wherever slopes come from. (Their values: tests/reference/test_oracles.py.)"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alibi_cli import AlibiError, AlibiPositionalBias, apply_alibi, get_slopes
from alibi_cli.conversion.verify import verify
from alibi_cli.runtime.alibi_slopes import SMALLEST, is_per_layer, is_slope, layers_of
from alibi_cli.slopes import read_slopes
from tests.checkpoint.helpers import convert
from tests.cli.run import alibi_here
from tests.models import save_tiny, tiny_model

LEGAL = [0.5, 1, 1.2e-38, 1e30]
ILLEGAL = [
    0,
    0.0,
    -0.5,
    float("nan"),
    float("inf"),
    1e-46,
    1e-320,
    1e31,
]  # 1e-46 is zero in float32, 1e-320 is not zero in float64


def test_what_is_legal_is_not_zero_in_float32_and_stays_finite_there() -> None:
    assert all(is_slope(value) and 0 < torch.tensor(value, dtype=torch.float32) < torch.inf for value in LEGAL)
    assert not any(is_slope(value) for value in [*ILLEGAL, True, "0.5", None, [0.5]])
    assert torch.tensor(SMALLEST, dtype=torch.float32) == torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("value", [*LEGAL, *ILLEGAL], ids=str)
def test_in_memory_in_a_module_in_a_file_and_on_the_command_line(value: float, tmp_path: Path) -> None:
    slopes = [0.5, 0.25, value]

    def taken(take) -> bool:
        try:
            take()
        except (ValueError, AlibiError) as error:
            assert "lopes" in str(error)
            return False
        return True

    def in_memory() -> None:
        model = tiny_model("gpt2", torch.float32, num_attention_heads=3)
        apply_alibi(model, 64, slopes=slopes)

    def in_a_file() -> None:
        (tmp_path / "slopes.json").write_text(json.dumps(slopes))
        assert read_slopes(tmp_path / "slopes.json", 3, 2) == slopes

    def inspected() -> None:
        config = {"model_type": "alibi_gpt2", "num_attention_heads": 3, "alibi_slopes": slopes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if alibi_here("inspect", "slopes", tmp_path).exit_code:
            raise ValueError("slopes")

    ways = in_memory, in_a_file, inspected, lambda: AlibiPositionalBias(3, slopes=slopes)
    assert [taken(way) for way in ways] == [value in LEGAL] * 4


def test_a_checkpoint_with_illegal_slopes_does_not_verify_and_one_of_version_0_1_0_still_loads(tmp_path: Path) -> None:
    """Version 0.1.0 took slopes of zero: a head without a bias."""
    from transformers import AutoModelForCausalLM

    convert(save_tiny("gpt2", tmp_path / "gpt2", num_attention_heads=3), tmp_path / "out", check=False)
    path, facts = tmp_path / "out" / "config.json", tmp_path / "out" / "alibi.json"
    before = path.read_text()
    assert verify(tmp_path / "out").passed
    path.write_text(json.dumps({**json.loads(before), "alibi_slopes": [0.5, 0.25, 0.0]}))
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "slopes": [0.5, 0.25, 0.0], "files": {}}))
    wrong = [finding for finding in verify(tmp_path / "out").findings if finding.file == "config.json"]
    assert wrong[0].status == "wrong" and "slopes" in wrong[0].detail
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert model.transformer.h[0].attn.alibi_slopes == [0.5, 0.25, 0.0]
    path.write_text(json.dumps({**json.loads(before), "alibi_slopes": [0.5, 0.25, -1.0]}))
    with pytest.raises(ValueError, match="alibi_slopes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)


@pytest.mark.parametrize("max_bias", ["1e9", "127", "0", "-1", "nan", "inf"])
def test_exponents_whose_slopes_are_zero_in_float32_are_refused(max_bias: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bias"):
        get_slopes(8, float(max_bias))
    assert min(get_slopes(8, 126.0)) == SMALLEST
    shown = alibi_here("inspect", "slopes", "--heads", "8", "--max-bias", max_bias)
    assert shown.exit_code == 2 and "--max-bias" in shown.error.message


def test_one_list_or_one_per_layer() -> None:
    assert layers_of([0.5, 0.25]) == [[0.5, 0.25]] and not is_per_layer([0.5, 0.25])
    assert layers_of([[0.5], [0.25]]) == [[0.5], [0.25]] and is_per_layer([[0.5], [0.25]])
    assert layers_of([]) == [[]] and layers_of(None) == [None] and not is_per_layer({"a": 1})


def test_by_name_in_memory() -> None:
    model = tiny_model("gpt2", torch.float32)
    with pytest.raises(ValueError, match="'calibrated'"):
        apply_alibi(model, 64, slopes="calibrated")
    assert not hasattr(model.config, "alibi_slopes")  # nothing was changed
    apply_alibi(model, 64, slopes="press")
    assert model.config.alibi_slopes == get_slopes(6)


def test_slopes_need_no_torch() -> None:
    code = "import sys, alibi_cli.slopes, alibi_cli.runtime.alibi_slopes; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
