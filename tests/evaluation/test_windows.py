"""Which tokens are scored, and with how much context."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alibi_cli import AlibiError
from alibi_cli.evaluation.protocols import make_protocol
from alibi_cli.text.segments import draw
from alibi_cli.text.tokens import MASKED_SHARE, TokenizedDocument, enclosed


def documents(*sizes: int) -> list[TokenizedDocument]:
    return [TokenizedDocument(f"d{i}", np.arange(size), np.arange(1, size + 1), i) for i, size in enumerate(sizes)]


def scored(protocol, docs, length) -> list[tuple[int, int]]:
    return sorted((w.document, int(t)) for w in protocol.windows(docs, length) for t in w.targets)


SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=4)


@settings(deadline=None, max_examples=200)
@given(
    SIZES,
    st.lists(st.integers(2, 40), min_size=1, max_size=3, unique=True),
    st.integers(0, 1),
    st.integers(1, 40),
    st.sampled_from(["sliding", "non-overlapping"]),
)
def test_every_token_once_at_every_length(
    sizes: list[int], lengths: list[int], prefix: int, stride: int, name: str
) -> None:
    docs = documents(*sizes)
    shortest = min(lengths) - prefix
    if shortest < 1 or all(size < 2 - prefix for size in sizes):
        return
    protocol = make_protocol(
        name, tuple(lengths), stride=min(stride, shortest) if name == "sliding" else None, prefix=prefix
    )
    expected = [(d, t) for d, size in enumerate(sizes) for t in range(0 if prefix else 1, size)]
    for length in lengths:
        windows = protocol.windows(docs, length)
        assert scored(protocol, docs, length) == expected
        for window in windows:
            fed = prefix + (window.end - 1) - window.begin  # the last scored token is not fed
            assert window.begin >= 0 and fed <= length
            assert all(window.begin < t < window.end or (prefix and t == 0) for t in window.targets)


@settings(deadline=None, max_examples=200)
@given(SIZES, st.lists(st.integers(4, 40), min_size=1, max_size=3, unique=True), st.integers(0, 1), st.integers(1, 3))
def test_fixed_targets_are_the_same_tokens_with_the_stated_context(
    sizes: list[int], lengths: list[int], prefix: int, targets: int
) -> None:
    docs = documents(*sizes)
    if targets >= min(lengths) - prefix or max(sizes) < max(lengths) - prefix:
        return
    protocol = make_protocol("fixed-target", tuple(lengths), targets=targets, prefix=prefix)
    segment = max(lengths) - prefix
    expected = [
        (d, t)
        for d, size in enumerate(sizes)
        for end in range(segment, size + 1, segment)
        for t in range(end - targets, end)
    ]
    for length in lengths:
        assert scored(protocol, docs, length) == expected
        for window in protocol.windows(docs, length):
            context = window.targets - window.begin + prefix
            assert context.tolist() == list(range(length - targets, length))


def test_stride_one_gives_every_token_a_full_window() -> None:
    protocol = make_protocol("sliding", (7,), stride=1)
    for window in protocol.windows(documents(30), 7):
        for target in window.targets:
            assert target - window.begin == min(target, 7)


def test_a_full_stride_is_non_overlapping() -> None:
    docs = documents(50, 33, 1)
    a, b = make_protocol("sliding", (8,), stride=8), make_protocol("non-overlapping", (8,))
    for x, y in zip(a.windows(docs, 8), b.windows(docs, 8), strict=True):
        assert (x.document, x.begin, x.end, x.targets.tolist()) == (y.document, y.begin, y.end, y.targets.tolist())


def test_masked_positions_are_the_same_at_every_length_and_fifteen_percent() -> None:
    docs = documents(3000, 2000)
    for name, stride in (("non-overlapping", None), ("sliding", 20)):
        protocol = make_protocol(name, (32, 64, 128), stride=stride, prefix=1, suffix=1, masked=True)
        sets = [scored(protocol, docs, length) for length in (32, 64, 128)]
        assert sets[0] == sets[1] == sets[2]
        assert abs(len(sets[0]) / 5000 - MASKED_SHARE) < 0.02
        for length in (32, 64, 128):
            assert all(window.end - window.begin + 2 <= length for window in protocol.windows(docs, length))
    fixed = make_protocol("fixed-target", (32, 64), prefix=1, suffix=1, masked=True)
    assert scored(fixed, docs, 32) == scored(fixed, docs, 64) != []


def test_the_default_number_of_targets() -> None:
    assert make_protocol("fixed-target", (512, 2048)).targets == 256
    assert make_protocol("fixed-target", (100, 2048)).targets == 50
    assert make_protocol("fixed-target", (1024, 2048), truncated=300).targets == 150


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(name="fixed-target", lengths=(8,), targets=8), "no context"),
        (dict(name="fixed-target", lengths=(8, 16), targets=9), "no context"),
        (dict(name="sliding", lengths=(8,)), "stride"),
        (dict(name="sliding", lengths=(8,), stride=9), "between 1 and 8"),
        (dict(name="non-overlapping", lengths=(8,), stride=4), "stride"),
        (dict(name="non-overlapping", lengths=(8,), targets=4), "targets"),
        (dict(name="lm-eval", lengths=(8,), masked=True), "not for masked"),
        (dict(name="backwards", lengths=(8,)), "no protocol"),
        (dict(name="non-overlapping", lengths=(2,), prefix=1, suffix=1, masked=True), "no room"),
    ],
)
def test_what_leaves_nothing_to_score_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(AlibiError, match=says) as error:
        make_protocol(**arguments)
    assert error.value.exit_code == 2


def test_too_short_documents_are_an_error() -> None:
    with pytest.raises(AlibiError, match="long enough"):
        make_protocol("fixed-target", (8, 64)).windows(documents(63), 8)
    with pytest.raises(AlibiError, match="long enough"):
        make_protocol("non-overlapping", (8,)).windows(documents(1, 0), 8)


def test_segments_are_drawn_from_every_document_in_turn() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        sizes, wanted = rng.integers(0, 60, rng.integers(1, 9)).tolist(), int(rng.integers(1, 30))
        left, taken = [size // 10 for size in sizes], [0] * len(sizes)
        drawn = draw(documents(*sizes), wanted, 10, True, seed)
        assert (drawn.count, drawn.available) == (min(wanted, sum(left)), sum(left))
        if wanted >= sum(left):
            assert [len(text.ids) for text in drawn.texts] == sizes
            continue
        for text in drawn.texts:
            taken[text.index] += 1
            assert len(text.ids) == 10 and text.start % 10 == 0 and text.ids[0] == text.start == text.start_byte
        assert sum(taken) == wanted and all(n <= have for n, have in zip(taken, left, strict=True))
        fewest = min(n for n, have in zip(taken, left, strict=True) if n < have)
        assert max(taken) <= fewest + 1  # no document gives two more than one that has another
        places = [(text.index, text.start) for text in drawn.texts]
        assert places == sorted(set(places))


def test_segments_lie_anywhere_and_follow_the_seed() -> None:
    docs = documents(100, 35, 1000)
    found = {seed: [(t.index, t.start) for t in draw(docs, 4, 10, True, seed).texts] for seed in range(300)}
    assert found[7] == [(t.index, t.start) for t in draw(docs, 4, 10, True, 7).texts]
    for index, size in enumerate((100, 30, 1000)):
        starts = [start for places in found.values() for of, start in places if of == index]
        assert set(range(0, min(size, 100), 10)) <= set(starts) and max(starts) >= size - 60
        assert abs(np.mean(starts) / (size - 10) - 0.5) < 0.1  # as often in the second half
    seconds = [max((0, 1, 2), key=[of for of, _ in places].count) for places in found.values()]
    assert all(60 < seconds.count(index) < 140 for index in range(3))  # the fourth is of any document


def test_what_is_left_over_counts_where_windows_need_not_be_full() -> None:
    docs = documents(25, 7)
    found = {(t.index, t.start, len(t.ids)) for seed in range(50) for t in draw(docs, 3, 10, False, seed).texts}
    assert found == {(0, 0, 10), (0, 10, 10), (0, 20, 5), (1, 0, 7)}
    assert [len(text.ids) for text in draw(documents(5, 7), 3, 10, True, 0).texts] == [
        5,
        7,
    ]  # too short: the protocol says so


def test_a_drawn_segment_keeps_its_masks_and_its_windows() -> None:
    """What is scored of a segment, and after how many tokens, does not depend on the others that were drawn."""
    (whole,) = documents(4000)
    part = whole.part(1024, 1152)
    masked = make_protocol("non-overlapping", (32, 128), masked=True)
    positions = [t + 1024 for _, t in scored(masked, [part], 32)]
    assert positions == [t for _, t in scored(masked, [whole], 32) if 1024 <= t < 1152]
    fixed = make_protocol("fixed-target", (32, 128), targets=8)
    for length in (32, 128):
        (window,) = fixed.windows([part], length)
        own = fixed.windows([whole], length)[8]
        assert (window.targets + 1024).tolist() == own.targets.tolist() and window.begin + 1024 == own.begin


def rolling(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """(fed, predicted) of every window of lm-evaluation-harness's loglikelihood_rolling: the predicted tokens are blocks of `length`, and
    each block is fed the `length` tokens that end before its last one, as far as there are any after the prefix."""
    text = [prefix, *tokens]
    ends = [min(len(tokens), begin + length) for begin in range(0, len(tokens), length)]
    begins = range(0, len(tokens), length)
    return [(text[max(0, end - length) : end], tokens[begin:end]) for begin, end in zip(begins, ends, strict=True)]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 90), st.integers(1, 40), st.integers(0, 2), st.integers(0, 1))
def test_lm_eval_windows_are_those_of_the_harness(size: int, length: int, begins: int, ends: int) -> None:
    bare = TokenizedDocument("d", np.arange(100, 100 + size), np.arange(3, 3 * size + 3, 3))
    special, end = [7] * begins, [8] * ends  # what the tokenizer itself puts around a text is predicted too
    document = enclosed(bare, [9, *special], end)
    expected = rolling([*special, *bare.ids.tolist(), *end], 9, length)
    if not expected:
        return
    windows = make_protocol("lm-eval", (length,)).windows([document], length)
    fed = [document.ids[window.begin : window.end - 1].tolist() for window in windows]
    assert [
        (part, document.ids[window.targets].tolist()) for part, window in zip(fed, windows, strict=True)
    ] == expected
    spans = [document.spans(window.targets) for window in windows]
    assert sum(int((end - begin).sum()) for begin, end in spans) == 3 * size
    if size > length:
        plain = make_protocol("non-overlapping", (length,)).windows([document], length)
        assert [w.targets.tolist() for w in plain] == [w.targets.tolist() for w in windows]
        short = (begins + size + ends) % length
        assert (plain[-1].begin == windows[-1].begin) == (short == 0)  # the last one reaches back further
