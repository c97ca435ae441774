"""Shared fixtures. Nothing here touches the network or the user's caches."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # help without colours, whatever the terminal
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="alibi-hf-")  # of this process alone, whatever the user's
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # there is a worker for every core

import pytest
import torch

from tests.fuzzing import ran
from tests.models import save_tiny

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
REPOSITORY = Path(__file__).parent.parent


def pytest_collection_finish() -> None:
    """Verification and evaluation collect garbage; without what was imported to look through, that takes no time."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["ran"] = dict(ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    ran.update(getattr(node, "workeroutput", {}).get("ran", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases were tried, for docs/reliability.md."""
    for name, count in sorted(ran.items()):
        terminalreporter.write_line(f"{count:7,} {name}")


@pytest.fixture(autouse=True)
def _quiet_and_deterministic() -> None:
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    torch.manual_seed(0)


@pytest.fixture
def tiny_gpt2(tmp_path: Path) -> Path:
    """A saved two-layer GPT-2 of random weights with the demonstration's byte tokenizer."""
    return save_tiny("gpt2", tmp_path / "tiny-gpt2")


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "tiny-llama")
