"""Models and a text that several files of tests share."""

import pytest

from alibi_cli.conversion.writer import write
from alibi_cli.text.documents import Text, load_text
from tests.checkpoint.helpers import plan_of
from tests.models import save_tiny


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(
        "sample", [(name, document[:400]) for name, document in load_text().documents if len(document) > 400][:12]
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for family in ("gpt2", "llama", "roberta"):
        found[family] = str(save_tiny(family, folder / family))
        write(plan_of(found[family], folder / f"{family}-alibi"), check=False)
        found[f"{family}-alibi"] = str(folder / f"{family}-alibi")
    return found
