"""The record beside a results file: which token of which document each loss is of, told without this package."""

import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from alibi_cli import AlibiError, load_results
from alibi_cli.evaluation.results import RowKey
from alibi_cli.text.documents import Text
from tests.cli.run import alibi_inside
from tests.evaluation.helpers import LENGTHS, asked, evaluate
from tests.models import OLD_MAX

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


@pytest.fixture(scope="module")
def umlauts(text: Text) -> Text:
    """Characters of several bytes, hence of several tokens, before whatever is scored."""
    return Text(
        "t", [(f"{name} ü", "ä–🙂" * index + document) for index, (name, document) in enumerate(text.documents)]
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", dict(max_segments=5)),
        ("llama", dict(max_segments=5, protocol="non-overlapping")),
        ("llama", dict(max_segments=5, protocol="lm-eval")),
        ("gpt2", dict(max_segments=5, protocol="sliding", stride=5)),
        ("gpt2", {}),
    ],
)
def test_losses_are_found_in_the_text(
    family: str, settings: dict, checkpoints: dict[str, str], umlauts: Text, tmp_path: Path
) -> None:
    model, path, texts = checkpoints[f"{family}-alibi"], tmp_path / "r.json", dict(umlauts.documents)
    results, record = evaluate(asked([model], LENGTHS, umlauts, output=path, **settings))
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert results.document_names == load_results(path).document_names == list(texts)
    assert len(record) == len(LENGTHS)
    for scored in record.values():
        places = zip(scored.document, scored.position, scored.byte_begin, scored.byte_end, strict=True)
        for document, position, begin, end in places:
            name, content = umlauts.documents[document]
            ids = tokenizer(content, add_special_tokens=False)["input_ids"]
            # lm-eval's first token is part of a document, so its tokens stand one later.
            before = tokenizer.decode(ids[: position + (settings.get("protocol") != "lm-eval")]).rstrip("\ufffd")
            assert texts[name].encode()[:end].decode().startswith(before), (name, position)
            assert len(content.encode()[begin:end].decode()) <= 1  # these tokens are bytes: a character or nothing
        assert scored.n_bytes == (scored.byte_end - scored.byte_begin).sum()
    if "max_segments" in settings:
        assert (results.models[0].segments, results.protocol.segments_seed) == (5, 0)
        assert results.models[0].segments_available > 5 and len({int(d) for d in scored.document}) == 5
        assert max(int(each.position.max()) for each in record.values()) > 2 * LENGTHS[-1]


def test_the_table_says_what_was_drawn(checkpoints: dict[str, str]) -> None:
    command = ["eval", checkpoints["llama-alibi"], "--lengths", "12,24", "--targets", "4"]
    title = alibi_inside(*command, "--max-segments", "5").stdout.splitlines()[1]
    assert re.match(r"20 tokens of 5 documents in 5 of \d{4,} segments, seed 0, set [0-9a-f]{12}$", title), title


def test_offsets_that_were_changed_are_noticed(checkpoints: dict[str, str], text: Text, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "r.json"
    evaluate(asked([checkpoints["llama-alibi"]], (12, OLD_MAX), text, output=path))
    losses = path.with_suffix(".nll.safetensors")
    tensors = load_file(losses)
    with safe_open(losses, "numpy") as file:
        metadata = file.metadata()
    name = next(name for name in tensors if name.endswith("byte_end"))
    save_file({**tensors, name: tensors[name] + 1}, losses, metadata=metadata)
    with pytest.raises(AlibiError, match="was changed after"):
        load_results(path)


def test_the_page_traces_a_loss(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's Python, as it stands there, with numpy and safetensors alone."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("".join(f"Sätze über {n} Bäume. " for n in range(40)))
    command = ["eval", checkpoints["llama-alibi"], "--text", "book.txt", "--lengths", "12,48", "--targets", "4"]
    alibi_inside(*command, "--max-segments", "6", "--output", "results.json")
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert "alibi" not in code
    exec(code, {})
    found = re.fullmatch(r"(\[.*\]): ([\d.]+) nats for '(.*)' after '(.*)' in book.txt\n", capsys.readouterr().out)
    row, worst, token, before = found.groups()
    scored = load_results("results.json").record[RowKey(*json.loads(row))]
    assert float(worst) == pytest.approx(float(scored.nll.max()), abs=1e-4)
    assert len(before) == 40 and before + token in Path("book.txt").read_text()
