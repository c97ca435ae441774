"""Every family in the table computes the same from its file: llama.cpp's architecture in numpy against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from alibi_cli.errors import AlibiError
from alibi_cli.exporting import export as run
from alibi_cli.exporting import verification
from alibi_cli.exporting.architectures import FAMILIES
from alibi_cli.exporting.forward import log_probabilities
from alibi_cli.slopes import get_slopes
from tests.exporting.helpers import MODELS, SUITABLE, checkpoint, slopes_file
from tests.models import tiny_config, tiny_model

HEADS = 6
EXACT_GELU = ("gpt_neox", "mpt", "biogpt", "xglm")


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/engines has it."""
    monkeypatch.setattr(verification, "engine_version", lambda: None)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_computes_what_the_checkpoint_computes(name: str, tmp_path: Path):
    family, changes = MODELS[name]
    folder = checkpoint(tmp_path, family, changes)
    report = run.export(folder, tmp_path / "model.gguf", approximate=family in EXACT_GELU)
    assert report.architecture == FAMILIES[family].architecture.name
    assert report.approximations == (["GELU by its tanh approximation"] if family in EXACT_GELU else [])
    assert report.verified is not None and report.verified.by == "numpy"
    assert report.verified.max_abs_logprob_difference < (5e-3 if report.approximations else 5e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_heads_change_places(name: str, tmp_path: Path):
    press = get_slopes(HEADS)
    orders = [[1, 0, 2, 3, 5, 4], [3, 4, 5, 2, 1, 0]] if name == "llama" else [[5, 2, 1, 0, 4, 3], [0, 2, 1, 3, 4, 5]]
    slopes = [[press[h] for h in order] for order in orders]
    folder = checkpoint(tmp_path, name, slopes=slopes_file(tmp_path / "slopes.json", slopes))
    report = run.export(folder, tmp_path / "model.gguf")
    assert report.heads_permuted and report.verified is not None
    assert report.verified.max_abs_logprob_difference < 5e-5


def test_a_max_bias_of_ones_own(tmp_path: Path):
    folder = checkpoint(tmp_path, "gpt2", max_bias=5.5)
    report = run.export(folder, tmp_path / "model.gguf")
    assert report.max_bias == 5.5 and not report.heads_permuted
    assert report.verified is not None and report.verified.max_abs_logprob_difference < 5e-5


@pytest.mark.parametrize("what", ["slopes", "weight"])
def test_a_file_that_computes_something_else_gets_no_name(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = checkpoint(tmp_path, "llama")
    if what == "slopes":  # heads that do not change places
        press = get_slopes(HEADS)
        changed = [press[h] for h in (1, 0, 2, 3, 4, 5)]
        monkeypatch.setattr("alibi_cli.exporting.tensors.by_layer", lambda slopes, n: [changed] * n)
    else:
        original = run.write_file

        def damaged(path: Path, source: Any, header: Any, recipes: Any, *rest: Any) -> None:
            recipes = {**recipes, "blk.1.attn_v.weight": recipes["blk.1.attn_k.weight"]}
            original(path, source, header, recipes, *rest)

        monkeypatch.setattr(run, "write_file", damaged)
    with pytest.raises(AlibiError, match="differ from transformers"):
        run.export(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("model*"))


def test_a_tensor_without_a_place_in_the_file(tmp_path: Path):
    folder = checkpoint(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(AlibiError, match="no place for 1 tensors"):
        run.export(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_tensor_that_is_missing(family: str, tmp_path: Path):
    folder = checkpoint(tmp_path, family)
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.endswith(("c_proj.weight", "o_proj.weight", "out_proj.weight")))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(AlibiError, match=f"lacks .*{lost}"):
        run.export(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize("dtype, most", [("f16", 0.01), ("bf16", 0.1), ("q8_0", 0.3)])
def test_narrow_types(dtype: str, most: float, tmp_path: Path):
    folder = checkpoint(tmp_path, "llama", {"hidden_size": 96, "head_dim": 8})
    report = run.export(folder, tmp_path / "model.gguf", dtype=dtype)
    assert report.verified is not None and 0 < report.verified.mean_abs_logprob_difference < most
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.attn_norm.weight"] == "F32" and types["blk.0.ffn_up.weight"] == dtype.upper()
    assert types["blk.0.attn_output.weight"] == (
        "F16" if dtype == "q8_0" else dtype.upper()
    )  # 48 columns are no whole blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_epsilon_is_that_of_the_modules(family: str):
    """Which no comparison of logits shows."""
    changes = SUITABLE.get(family, {})
    model, config = tiny_model(family, torch.float32, **changes), tiny_config(family, **changes)
    found = {
        float(eps)
        for module in model.modules()
        if "Norm" in type(module).__name__
        for name in ("eps", "variance_epsilon")
        if (eps := getattr(module, name, None)) is not None
    }
    written = FAMILIES[family].eps
    wanted = written if isinstance(written, float) else getattr(config, written)
    assert found <= {wanted} and (found or family == "olmo")


def test_the_oracle_sees_the_position(tmp_path: Path):
    """Its control: without the bias the same tokens in another order are predicted alike."""
    run.export(checkpoint(tmp_path, "gpt2"), tmp_path / "model.gguf")
    ids = list(range(3, 40))
    one, other = (log_probabilities(tmp_path / "model.gguf", [*order, 50])[-1] for order in (ids, ids[::-1]))
    assert np.abs(one - other).max() > 0.1
