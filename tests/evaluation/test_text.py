"""Documents, fingerprints, tokens and their bytes."""

import ast
import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from alibi_cli import AlibiError, UsageError
from alibi_cli.settings.presets import presets_folder
from alibi_cli.text.documents import load_text
from alibi_cli.text.python_docs import documents, is_held_out
from alibi_cli.text.tokens import end_of_text, special_tokens, tokenize
from tests.cli.run import alibi_inside
from tests.conftest import REPOSITORY


def test_the_embedded_text_is_split_by_name() -> None:
    train, held_out = dict(documents(held_out=False)), dict(documents(held_out=True))
    assert not set(train) & set(held_out)
    assert all(is_held_out(name) for name in held_out) and not any(is_held_out(name) for name in train)
    assert 0.05 < len(held_out) / (len(train) + len(held_out)) < 0.2
    assert sum(len(text.encode()) > 2048 for text in held_out.values()) >= 20


def test_the_fingerprint_changes_with_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one two")
    (tmp_path / "b").write_text("three")
    first = load_text(files=[tmp_path / "a", tmp_path / "b"]).fingerprint()
    assert (first["documents"], first["bytes"]) == (2, 12)
    assert load_text(files=[tmp_path / "a", tmp_path / "b"]).fingerprint() == first
    (tmp_path / "b").write_text("threE")
    assert load_text(files=[tmp_path / "a", tmp_path / "b"]).sha256 != first["sha256"]


def test_files_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"eins\r\n\r\nzwei\n\n\n\ndrei")
    assert [text for _, text in load_text(files=[tmp_path / "a"], split_on="blank-line").documents] == [
        "eins",
        "zwei",
        "drei",
    ]
    assert len(load_text(files=[tmp_path / "a"]).documents) == 1
    assert len(load_text(files=[tmp_path / "a"], split_on="blank-line", max_documents=2).documents) == 2


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "no text"), (b"  \n ", "no text"), (b"\xff\xfe\x00a", "UTF-8"), (b"a\x00b", "NUL")]
)
def test_what_is_not_text_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(AlibiError, match=says) as error:
        load_text(files=[tmp_path / "a"])
    assert error.value.exit_code == 2


def test_a_dataset_of_rows(tmp_path: Path) -> None:
    rows = [{"content": f"document {i}"} for i in range(5)] + [{"content": " "}]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    text = load_text(str(tmp_path), column="content", max_documents=4)
    assert [document for _, document in text.documents] == [f"document {i}" for i in range(4)]
    assert len(load_text(f"{tmp_path}::test", column="content").documents) == 5
    for spec, column, says in (
        (str(tmp_path), "text", "no column 'text'; its columns: content"),
        (f"{tmp_path}::train", "content", f"has no split 'train'; it has test. Name one, as in {tmp_path}::test"),
        ("a:b:c:d", "text", "is not path"),
    ):
        with pytest.raises(AlibiError, match=says):
            load_text(spec, column=column)


def test_files_of_rows_and_folders_that_datasets_wrote(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [{"text": f"document {i}", "n": i} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Dataset.from_list(rows)
    data.to_parquet(tmp_path / "a.parquet")
    data.to_csv(tmp_path / "a.csv")
    data.save_to_disk(tmp_path / "saved")
    DatasetDict({"test": data, "train": data.select([0])}).save_to_disk(tmp_path / "splits")
    for copy in ("B.JSONL", "c.ndjson", "co:lon.jsonl"):
        shutil.copy(tmp_path / "a.jsonl", tmp_path / copy)
    shutil.copytree(tmp_path / "splits", tmp_path / "sp:lit")
    files = ("a.jsonl", "a.parquet", "a.csv", "B.JSONL", "c.ndjson", "co:lon.jsonl")
    for spec in (*files, "saved", "splits", "splits::test", "sp:lit", "sp:lit::test"):
        found = load_text(str(tmp_path / spec))
        assert [text for _, text in found.documents] == [row["text"] for row in rows], spec
    assert len(load_text(f"{tmp_path / 'splits'}::train").documents) == 1
    (tmp_path / "broken.jsonl").write_text(json.dumps(rows[0]) + '\n{"text": \n')
    (tmp_path / "note.txt").write_text("text")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "train.jsonl").write_text(json.dumps(rows[0]))
    shutil.copytree(tmp_path / "saved", tmp_path / "list")
    (tmp_path / "list" / "state.json").write_text("[]")
    shutil.copytree(tmp_path / "saved", tmp_path / "nothing")
    (tmp_path / "nothing" / "state.json").write_text("{}")
    (tmp_path / "nothing" / "dataset_info.json").write_text("{}")
    for spec, column, says in (
        ("broken.jsonl", "text", "cannot be read"),
        ("a.jsonl", "n", "'n' is of type int, not text"),
        ("splits::dev", "text", "has no split 'dev'; it has test, train"),
        ("note.txt", "text", "is no dataset"),
        ("empty.jsonl", "text", "holds no rows"),
        ("train", "text", "has no split 'test'; it has train. Name one, as in .*train::train"),
        ("list", "text", "cannot be read"),
        ("nothing", "text", "cannot be read"),
        ("absent.jsonl", "text", "There is no file"),
        ("absent", "text", "There is no file"),
        ("a.jsonl::test", "text", "is one file, which has no configurations and splits"),
        ("saved::test", "text", "is one split, which has no configurations and splits"),
    ):
        with pytest.raises(UsageError, match=says):
            load_text(str(tmp_path / spec), column=column)


def test_folders_patterns_and_what_is_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "in" / "a.md").write_text("three")
    (tmp_path / "c.bin").write_bytes(b"\x00")
    found = load_text(files=[tmp_path])
    assert found.documents == [("b.txt", "one\ntwo"), ("a.md", "three")]
    assert found.normalised == ("b.txt: byte order mark left out", "b.txt: CRLF became LF")
    assert found.fingerprint()["normalised"] == list(found.normalised)
    assert "normalised" not in load_text(files=[tmp_path / "in"]).fingerprint()
    assert load_text(files=[tmp_path / "*" / "*.md"]).documents == [("a.md", "three")]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=BytesIO(b"piped in")))
    assert load_text(files=[Path("-")]).documents == [("-", "piped in")]
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}')
    for wrong, says in ((tmp_path / "*.pdf", "holds no text files"), (tmp_path / "rows.jsonl", "Give it as `dataset`")):
        with pytest.raises(UsageError, match=says):
            load_text(files=[wrong])


def test_what_is_odd_about_a_text_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = json.dumps({"text": "a page", "n": {"deep": [1]}})
    contents = {
        "cr.txt": "one\rtwo",
        "both.txt": "one\r\ntwo\rthree\n",
        "rows.txt": f"\n{row}\n\n{row}\n",
        "prose.txt": f"{row}\nand a sentence",
        "braces.txt": "{one}\n{two}",
        "list.txt": "[1]\n[2]",
        "deep.txt": '{"a":' * 9999,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
    found = {name: load_text(files=[tmp_path / name]) for name in contents}
    assert (
        found["cr.txt"].documents == [("cr.txt", "one\ntwo")]
        and found["both.txt"].documents[0][1] == "one\ntwo\nthree\n"
    )
    assert {name: text.normalised for name, text in found.items() if text.normalised} == {
        "cr.txt": ("cr.txt: CR became LF",),
        "both.txt": ("both.txt: CRLF became LF", "both.txt: CR became LF"),
        "rows.txt": ("rows.txt: JSON lines, read as text; a file of rows ends in .jsonl",),
    }
    for name in ("rows.JSONL", "rows.ndjson"):
        (tmp_path / name).write_text(row)
        with pytest.raises(UsageError, match="Give it as `dataset`"):
            load_text(files=[tmp_path / name])
    monkeypatch.setattr("sys.stdin", None)  # as Python has it where it is closed
    with pytest.raises(UsageError, match="standard input is closed"):
        load_text(files=[Path("-")])


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")  # the same words, but another file
    monkeypatch.chdir(tmp_path)
    found = load_text(files=[Path("a.txt"), tmp_path / "a.txt", tmp_path])
    assert found.documents == [("a.txt", "one"), ("b.txt", "one")] and found.name == "a.txt, b.txt"
    assert found.normalised == ("a.txt: named twice, read once",) * 2
    assert found.sha256 == load_text(files=[tmp_path]).sha256


def test_every_verb_says_and_records_what_was_changed(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"the bias of a head falls with distance\r\n" * 60)
    said, out = "t.txt: CRLF became LF", tmp_path / "out"
    commands: dict[str, list[str | Path]] = {
        "eval": ["eval", tiny_gpt2, "--lengths", "8", "--max-segments", "2", "--text", tmp_path / "t.txt"],
        "heads": ["inspect", "heads", tiny_gpt2, "--length", "8", "--tokens", "32", "--text", tmp_path / "t.txt"],
        "train": [
            "train",
            tiny_gpt2,
            "-o",
            out,
            "--steps",
            "1",
            "--length",
            "8",
            "--batch-tokens",
            "16",
            "--text",
            tmp_path / "t.txt",
        ],
    }
    for name, words in commands.items():
        result = alibi_inside(*words, "--json")
        assert result.stderr.count(said) == 1, name
        assert json.loads(result.stdout)["text"]["normalised"] == [said], name
    calibration = ["--slopes", "calibrated", "--calibration-tokens", "200", "--calibration-text", tmp_path / "t.txt"]
    result = alibi_inside("convert", tiny_gpt2, "-o", tmp_path / "converted", *calibration, "--json")
    assert said in result.stderr and json.loads(result.stdout)["calibration"]["text"]["normalised"] == [said]


def test_a_dataset_script_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'fired')!r}).touch()")
    with pytest.raises(AlibiError):
        load_text(str(tmp_path / "evil.py"))
    with pytest.raises(AlibiError):
        load_text(str(tmp_path))
    assert not (tmp_path / "fired").exists()


def test_a_text_and_a_dataset_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AlibiError, match="not both"):
        load_text("python-docs", [tmp_path / "a"])


def test_bytes_of_tokens_add_up_to_the_text(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(presets_folder() / "demo-gpt2")
    (tmp_path / "a").write_text("naïve – ünïcode 🙂 text")
    (document,) = tokenize(load_text(files=[tmp_path / "a"]), tokenizer)
    n_bytes = len((tmp_path / "a").read_bytes())
    assert len(document.ids) == n_bytes
    begins, ends = document.spans(np.arange(n_bytes))
    assert (ends - begins).sum() == n_bytes and (ends >= begins).all()
    assert tokenizer.decode(document.ids) == (tmp_path / "a").read_text()


def test_bytes_of_words_count_the_spaces_that_a_tokenizer_drops(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "ein": 2, "größer": 3, "[UNK]": 4}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    (tmp_path / "a").write_text("ein  größer ein")
    (document,) = tokenize(load_text(files=[tmp_path / "a"]), tokenizer)
    assert document.ids.tolist() == [2, 3, 2]
    assert document.spans(np.arange(3)).tolist() == [[0, 3, 3 + 2 + 8], [3, 3 + 2 + 8, 3 + 2 + 8 + 1 + 3]]
    assert document.part(1, 3).spans(np.arange(2)).tolist() == [[3, 13], [13, 17]]
    assert special_tokens(tokenizer) == ([0], [1])


def test_text_becomes_tokens_in_one_place() -> None:
    """Special tokens and what follows a document would otherwise be decided by each room of its own."""
    package = REPOSITORY / "alibi_cli"
    calls = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if _calls_a_tokenizer(path.read_text())
    }
    assert calls == {"text/tokens.py"}
    assert _calls_a_tokenizer("ids = self.tokenizer(text)") and _calls_a_tokenizer("f(text, add_special_tokens=False)")


def _calls_a_tokenizer(source: str) -> bool:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    keywords = {keyword.arg for call in calls for keyword in call.keywords}
    return "tokenizer" in names or "add_special_tokens" in keywords


def test_what_follows_a_document() -> None:
    assert end_of_text(SimpleNamespace(eos_token_id=0, sep_token_id=2)) == 0
    assert end_of_text(SimpleNamespace(eos_token_id=None, sep_token_id=2)) is None
    assert end_of_text(SimpleNamespace(eos_token_id=None, sep_token_id=2), or_separator=True) == 2
