"""`--tokenizer`: text read with another tokenizer than the model's own."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import alibi_cli
from alibi_cli import AlibiError, UsageError
from alibi_cli.models.source import locate
from alibi_cli.text.documents import Text
from tests.checkpoint.helpers import convert
from tests.evaluation.helpers import ask, asked, evaluate
from tests.models import save_tiny

TEXT = Text("t", [(f"d{i}", f"{i} of the documents, each a little text of its own") for i in range(3)])
NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def bare(tmp_path: Path) -> tuple[str, str]:
    """A checkpoint, and the same one without its tokenizer."""
    whole, bare = save_tiny("llama", tmp_path / "whole"), save_tiny("llama", tmp_path / "bare")
    for path in bare.iterdir():
        if path.name in NAMES:
            path.unlink()
    (bare / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    return str(whole), str(bare)


def test_a_model_without_one_reads_with_that_of_another(bare: tuple[str, str], tmp_path: Path) -> None:
    whole, without = bare
    with pytest.raises(AlibiError, match="bare cannot be loaded"):
        evaluate(asked([without], (8, 16), TEXT))
    convert(Path(whole), tmp_path / "converted", check=False)
    own, _ = evaluate(asked([whole], (8, 16), TEXT))
    for tokenizer in (whole, "demo-gpt2", str(tmp_path / "converted")):
        found, _ = evaluate(asked([without], (8, 16), TEXT, tokenizer=tokenizer))
        assert [(row.nll, row.tokens_scored) for row in found.rows] == [(r.nll, r.tokens_scored) for r in own.rows]
        assert found.models[0].tokens_sha256 == own.models[0].tokens_sha256
    of_task = ask("passkey", [without], (200,), samples=2, tokenizer="demo-gpt2")
    assert [row["outcomes"] for row in of_task["rows"]] == [
        row["outcomes"] for row in ask("passkey", [whole], (200,), samples=2)["rows"]
    ]


def test_another_one_makes_other_tokens_and_does_not_continue_a_file(bare: tuple[str, str], tmp_path: Path) -> None:
    whole, output = bare[0], tmp_path / "r.json"
    tokenizer = AutoTokenizer.from_pretrained(locate("demo-gpt2")[0])
    lower = tokenizer.backend_tokenizer.to_str().replace('"normalizer":null', '"normalizer":{"type":"Lowercase"}')
    tokenizer.save_pretrained(tmp_path / "lower")
    (tmp_path / "lower" / "tokenizer.json").write_text(lower)
    text = Text("t", [(name, content.upper()) for name, content in TEXT.documents])
    own, _ = evaluate(asked([whole], (8,), text, output=output))
    with pytest.raises(UsageError, match="has changed since"):
        evaluate(asked([whole], (8,), text, output=output, resume=True, tokenizer=str(tmp_path / "lower")))
    other, _ = evaluate(asked([whole], (8,), text, tokenizer=str(tmp_path / "lower")))
    assert other.models[0].tokens_sha256 != own.models[0].tokens_sha256 and other.rows[0].nll != own.rows[0].nll


def test_what_is_no_tokenizer_is_refused(bare: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(AlibiError, match="bare cannot be loaded"):
        evaluate(asked([bare[0]], (8,), TEXT, tokenizer=bare[1]))
    with pytest.raises(AlibiError, match="There is no folder"):
        alibi_cli.evaluate([bare[0]], lengths=[8], text=TEXT, tokenizer="./none")
