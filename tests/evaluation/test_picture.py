"""What the picture of an evaluation shows."""

from pathlib import Path

import alibi_cli
from alibi_cli.text.documents import Text
from tests.models import OLD_MAX, save_tiny


def test_panels_end_where_measuring_ends_and_mark_the_trained_length_within(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "m")
    text = Text("t", [(f"d{i}", "words of a document " * OLD_MAX) for i in range(3)])
    for lengths, marked in (([OLD_MAX // 4, OLD_MAX // 2], False), ([OLD_MAX // 2, 2 * OLD_MAX], True)):
        results = alibi_cli.evaluate([str(model)], lengths=lengths, text=text)
        assert results.models[0].trained_length == OLD_MAX
        for axis in results.plot().axes:
            drawn = [set(line.get_xdata()) for line in axis.lines]
            assert ({OLD_MAX} in drawn) == marked and axis.get_xlim()[1] < 1.5 * lengths[-1]
