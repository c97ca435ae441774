"""Programs that people use with a checkpoint, each by its real package. `make engines` runs this, in an environment of its own.

Every test compares with an independent computation and with a control that has to differ. `--record` writes the figures to
benchmarks/ecosystem.json, from which `make docs` writes docs/compatibility.md.
"""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.conftest import REPOSITORY
from tests.ecosystem.checkpoints import SETTINGS, Checkpoint, Way, make

# Models so small gain nothing by threads, and lose much by waiting for them.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

RECORD = REPOSITORY / "benchmarks" / "ecosystem.json"
WAYS = {"carried": Way(True, "transformers_modules"), "installed": Way(False, "alibi_cli")}
# generate runs each model in both ways; elsewhere each model is loaded in one, so that both ways are run at half the time.
LEFT_OUT = ({"checkpoint": "demo-gpt2", "way": "carried"}, {"checkpoint": "demo-llama", "way": "installed"})
rows: dict[str, dict[str, Any]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help=f"writes the figures to {RECORD.name}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def chosen(item: Any) -> bool:
        return (
            item.path.name == "test_generate.py"
            or getattr(getattr(item, "callspec", None), "params", None) not in LEFT_OUT
        )

    config.hook.pytest_deselected(items=[item for item in items if not chosen(item)])
    items[:] = filter(chosen, items)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keeps a row of the table: of several runs of a test, the largest difference and the smallest control."""

    def keep(package: str, compared: str, difference: float, control: float, *, at: str = "") -> None:
        test = f"{Path(request.node.path).name}::{request.node.originalname}"
        row = rows.setdefault(
            f"{test} {at} {compared}",
            {"package": package, "version": at or version(package), "compared": compared, "test": test}
            | {"difference": difference, "control": control},
        )
        row["difference"] = max(row["difference"], difference)
        row["control"] = min(row["control"], control)

    return keep


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Rows of files that were not run stay as they were."""
    if session.config.getoption("--record"):
        files = {item.path.name for item in session.items}
        before = json.loads(RECORD.read_text()) if RECORD.is_file() else []
        kept = [row for row in before if row["test"].partition("::")[0] not in files]
        found = sorted([*kept, *rows.values()], key=lambda row: (row["test"], row["version"]))
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in SETTINGS}


@pytest.fixture(params=SETTINGS)
def checkpoint(request: pytest.FixtureRequest, made: dict[str, Checkpoint]) -> Checkpoint:
    return made[request.param]


@pytest.fixture
def llama(made: dict[str, Checkpoint]) -> Checkpoint:
    return made["demo-llama"]


@pytest.fixture
def gpt2(made: dict[str, Checkpoint]) -> Checkpoint:
    return made["demo-gpt2"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    if request.param == "carried":  # as if this package had not been imported
        monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", {})
    return WAYS[request.param]
