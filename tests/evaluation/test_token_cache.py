"""Tokens from the cache are the tokens of the text, and nothing else that lies there is believed."""

from pathlib import Path

import numpy as np
import pytest

from alibi_cli.settings.presets import presets_folder
from alibi_cli.text import token_cache
from alibi_cli.text.documents import Text
from alibi_cli.text.token_cache import tokenize_once
from alibi_cli.text.tokens import tokenize

TEXT = Text("t", [("a", "import os\n" * 300), ("empty", ""), ("b", "é – 漢字 " * 50)])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(token_cache.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(token_cache, "WORTH_IT", 1000)
    return tmp_path / "alibi" / "tokens"


def tokenizer(name: str = "demo-gpt2"):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(presets_folder() / name)


def same(first, second) -> bool:
    return all(
        a.name == b.name
        and a.ids.dtype == b.ids.dtype
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.byte_ends, b.byte_ends)
        for a, b in zip(first, second, strict=True)
    )


def test_a_second_look_up_gives_the_same_documents_without_tokenising(cache: Path, monkeypatch) -> None:
    gpt2 = tokenizer()
    expected = tokenize(TEXT, gpt2)
    assert same(tokenize_once(TEXT, gpt2), expected) and len(list(cache.iterdir())) == 1
    monkeypatch.setattr(token_cache, "tokenize", lambda *args: pytest.fail("tokenised again"))
    assert same(tokenize_once(TEXT, tokenizer()), expected)  # another object, the same tokenizer


def test_another_text_or_tokenizer_is_another_entry(cache: Path) -> None:
    gpt2, changed = tokenizer(), tokenizer()
    changed.add_tokens(["import os"])
    other = Text("t", [*TEXT.documents[:2], ("b", "x" * 1000)])
    for text, t in ((TEXT, gpt2), (TEXT, changed), (other, gpt2)):
        for _ in range(2):
            assert same(tokenize_once(text, t), tokenize(text, t))
    assert len(list(cache.iterdir())) == 3
    assert not same(tokenize_once(TEXT, gpt2)[:1], tokenize_once(TEXT, changed)[:1])


def test_damaged_entries_and_folders_that_cannot_be_written_cost_time_only(cache: Path, monkeypatch) -> None:
    gpt2 = tokenizer()
    expected = tokenize(TEXT, gpt2)
    tokenize_once(TEXT, gpt2)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not safetensors" * 20):
        entry.write_bytes(damaged)
        assert same(tokenize_once(TEXT, gpt2), expected) and entry.read_bytes() == whole
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setattr(token_cache.constants, "HF_HOME", str(blocked))
    assert same(tokenize_once(TEXT, gpt2), expected)


def test_small_texts_are_not_kept(cache: Path) -> None:
    tokenize_once(Text("t", [("a", "short")]), tokenizer())
    assert not cache.exists()
