"""The generated items: right, as long as they should be, the same from the same seed."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.tasks import listops
from alibi_cli.evaluation.tasks import task as registry
from alibi_cli.evaluation.tasks.task import Task, get_task, make_items, register_task, task_names
from tests.evaluation.tasks.by_hand import value_of


def by_bytes(text: str) -> list[int]:
    return list(text.encode())


def by_pieces(text: str) -> list[int]:
    """A tokenizer with words and single digits, where a leading space belongs to the word, as in byte-pair encodings."""
    pieces = re.findall(r" ?[A-Za-z\[\]]+| ?\d|\n| ?[^\w\s]", text)
    assert "".join(pieces) == text
    return [int.from_bytes(piece.encode(), "big") for piece in pieces]


def by_pairs(text: str) -> list[int]:
    """A tokenizer whose numbers are cut in pairs, and whose spaces are tokens of their own, as in some sentence pieces."""
    pieces = re.findall(r"[A-Za-z\[\]]+|\d\d?|\s|[^\w\s]", text)
    return [int.from_bytes(piece.encode(), "big") for piece in pieces]


TOKENIZERS = [by_bytes, by_pieces, by_pairs]


@pytest.mark.parametrize("encode", TOKENIZERS)
@pytest.mark.parametrize("room", [200, 512, 1500])
def test_the_passkey_is_where_it_says(encode, room: int) -> None:
    task, places = get_task("passkey"), {}
    for depth in task.depths:
        for item in make_items(task, "passkey", encode, room, depth, 4, seed=1):
            key = item.answer.strip()
            assert re.fullmatch(r"[1-9]\d{4}", key) and item.text.count(key) == 2
            assert not re.search(r"\d", item.text.replace(key, ""))
            assert item.prompt + item.target == encode(item.text + item.answer)
            assert item.choices is None and item.text.endswith("The pass key is")
            assert room - 60 <= len(item.prompt) + len(item.target) <= room
            places.setdefault(depth, []).append(item.text.index(key) / len(item.text))
    means = [sum(values) / len(values) for values in places.values()]
    assert means == sorted(means)
    if room == 1500:
        assert all(abs(mean - depth) < 0.15 for mean, depth in zip(means, places, strict=True))


@pytest.mark.parametrize("encode", TOKENIZERS)
@pytest.mark.parametrize("room", [140, 512, 1500])
def test_listops_answers_are_right_and_balanced(encode, room: int) -> None:
    items = make_items(get_task("listops"), "listops", encode, room, None, 30, seed=1)
    for item in items:
        *examples, expression = item.text.splitlines()
        assert value_of(expression.removesuffix(" =")) == int(item.answer)
        for line in examples[1:]:  # the worked examples are right as well
            assert value_of(line.rpartition(" = ")[0]) == int(line[-1])
        assert item.prompt + item.target == encode(item.text + item.answer)
        assert item.choices is not None and item.target == [item.choices[int(item.answer)]]
        assert 0.85 * room <= len(item.prompt) + 1 <= room
    assert set(Counter(item.answer for item in items).values()) == {3}


def test_expressions_have_the_size_asked_for_and_nest() -> None:
    rng = random.Random(0)
    depths = []
    for symbols in [1, *range(4, 200)]:
        text = listops.write(tree := listops.grow(rng, symbols))
        assert len(text.split()) == symbols and value_of(text) == listops.evaluate(tree)
        assert isinstance(tree, int) or 2 <= len(tree[1]) <= 10
        depths.append(_depth(tree))
    assert max(depths) >= 5
    assert listops.evaluate(("MED", [1, 2, 4, 9])) == 3 and listops.evaluate(("SM", [9, 9, 3])) == 1


def _depth(tree) -> int:
    return 0 if isinstance(tree, int) else 1 + max(map(_depth, tree[1]))


@pytest.mark.parametrize("name", task_names())
def test_items_follow_from_the_seed(name: str) -> None:
    def made(seed: int) -> list:
        return make_items(get_task(name), name, by_bytes, 400, 0.5, 5, seed)

    assert made(1) == made(1) and made(1) != made(2)
    assert len({item.text for item in made(1)}) == 5


@pytest.mark.parametrize("name", task_names())
def test_a_length_that_is_too_short_is_refused(name: str) -> None:
    with pytest.raises(AlibiError, match="tokens long with this tokenizer; 40 are too few") as caught:
        make_items(get_task(name), name, by_bytes, 40, 0.5, 1, 0)
    assert caught.value.exit_code == 2


def test_a_tokenizer_without_digits_is_refused() -> None:
    with pytest.raises(AlibiError, match="ten digits"):
        make_items(get_task("listops"), "listops", lambda text: [0] * len(text), 400, None, 1, 0)


def test_names_are_strict(tmp_path: Path) -> None:
    with pytest.raises(AlibiError, match="no task 'paskey'") as caught:
        get_task("paskey")
    assert caught.value.hint == "Did you mean passkey? There are listops, passkey."

    class Mine(Task):
        pass

    with pytest.raises(ValueError, match=r"'listops' is registered already: .*ListOps; refused: .*Mine"):
        register_task("listops")(Mine)
    with pytest.raises(TypeError, match="subclass of Task"):
        register_task("mine")(dict)
    assert "mine" not in registry.task_names()
