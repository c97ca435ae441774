"""Every family that vLLM serves, in the real vLLM, against transformers: `make engines`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alibi_cli.serving.routes import BACKEND, NATIVE
from tests.exporting.helpers import checkpoint
from tests.models import SPECIFIC
from tests.vllm.conftest import Record
from tests.vllm.helpers import WIDE, ask, attention_names, changed_config, differences, elsewhere, engine, some_ids

# Of a family's tiny model, what has to fit the wide one.
SUITABLE: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 192, "word_embed_proj_dim": 128},
    "gptj": {"rotary_dim": 16},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32},
    "gemma3": {"head_dim": 32, "query_pre_attn_scalar": 32},
}
GROUPED = {"head_dim": 32, "num_key_value_heads": 2}


def made(folder: Path, family: str, **options: Any) -> Path:
    return elsewhere(checkpoint, folder, family, {**WIDE, **of_family(family)}, max_sequence_length=256, **options)


def of_family(family: str) -> dict[str, Any]:
    known = SPECIFIC.get(family, {})
    changes = {name: value for name, value in GROUPED.items() if name in known}
    if "layer_types" in known:
        changes["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    if known.get("sliding_window"):
        changes["sliding_window"] = 21
    return {**changes, **SUITABLE.get(family, {})}


def slopes(heads: int = 4, layers: int = 3) -> list[list[float]]:
    generator = torch.Generator().manual_seed(0)
    return (2 ** -(7 * torch.rand(layers, heads, generator=generator) + 0.5)).tolist()


@pytest.mark.parametrize("family", [*NATIVE, *BACKEND])
def test_slopes_of_every_layer_and_head(family: str, tmp_path: Path, record: Record):
    file = tmp_path / "slopes.json"
    file.write_text(json.dumps(slopes()))
    folder = made(tmp_path, family, slopes=str(file))
    with engine(folder) as llm:
        assert attention_names(llm) == {"CPU_ATTN"}
        answers = ask(llm, [some_ids(), some_ids(33)])
    if family == "cohere2":  # vLLM lets its windows see one token more, in the stock model too
        folder = changed_config(folder, sliding_window=22)
    worst, others = differences(folder, answers)
    record("families", family=family, route="native" if family in NATIVE else "backend", max=worst, others=others)
    assert worst < (2e-3 if family == "bloom" else 2e-4)  # BLOOM's own bias grows with the position, and its rounding
    assert others == 0
