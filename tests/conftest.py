"""Shared fixtures. Nothing here touches the network or the user's caches."""

import atexit
import gc
import os
import shutil
import tempfile
from functools import partial
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

# What `make check` runs: files that take seconds and need no second environment.
QUICK = [
    "attention/test_blocked",
    "attention/test_flex",
    "attention/test_in_models",
    "attention/test_registry",
    "calibration/test_gradient",
    "calibration/test_heads",
    "calibration/test_parts",
    "calibration/test_reach",
    "calibration/test_sinks",
    "checkpoint/test_sink_distance",
    "cli/test_env",
    "evaluation/test_devices",
    "evaluation/test_statistics",
    "evaluation/test_text",
    "evaluation/test_token_cache",
    "evaluation/test_windows",
    "evaluation/tasks/test_items",
    "reference/test_attention",
    "reporting/test_sections",
    "reference/test_oracles",
    "reference/test_special",
    "prior_implementations/test_composer_engine",
    "prior_implementations/test_mpt",
    "prior_implementations/test_table",
    "prior_implementations/test_x_transformers",
    "prior_implementations/test_zeta",
    "surgery/test_engine",
    "surgery/test_registry",
    "test_documentation",
    "test_healing_report",
    "test_packaging",
    "test_real_model_study",
    "test_reliability",
    "test_words",
    "training/test_data",
    "training/test_loss",
]
# Files that take minutes begin first, so that no worker is left alone with one at the end.
LONG = [
    "test_plugins",
    "checkpoint/test_kill",
    "checkpoint/test_hub",
    "test_demo_checkpoints",
    "test_wheel",
    "reference/test_families",
    "test_canary",
    "attention/test_reach",
    "test_console_output",
    "training/test_resume",
    "training/test_run",
    "cli/test_cli",
    "test_library",
    "test_interrupted",
    "evaluation/test_trust",
]
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
REPOSITORY = Path(__file__).parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, up to five: while one waits for processes and disks, the others compute."""
    return min(4, os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only the files of `make check`")
    parser.addoption("--device", default="cpu", help="where tensors are made: cuda for `make gpu`")


def pytest_configure(config: pytest.Config) -> None:
    if (device := config.getoption("--device")) != "cpu":
        use_device(device)


def use_device(device: str) -> None:
    """Tensors that tests make, with or without a generator, are on `device`; those that they compare in numpy come back."""
    torch.set_default_device(device)
    to_numpy, generator = torch.Tensor.numpy, torch.Generator
    torch.Tensor.numpy = lambda self, **options: to_numpy(self.cpu(), **options)
    torch.Generator = partial(generator, device=device)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """For tests that say where something is computed."""
    return torch.device(request.config.getoption("--device"))


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY / "tests").with_suffix("").as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    quick = config.getoption("--quick") and collection_path.name.startswith("test_")
    return True if quick and _name(collection_path) not in QUICK else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(_name(item.path), len(LONG)))


def pytest_collection_finish() -> None:
    """Verification and evaluation collect garbage; without what was imported to look through, that takes no time."""
    gc.freeze()
    gc.set_threshold(10_000)


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
    from alibi_cli.silence import silence_libraries

    silence_libraries()
    torch.manual_seed(0)


@pytest.fixture
def tiny_gpt2(tmp_path: Path) -> Path:
    """A saved two-layer GPT-2 of random weights with the demonstration's byte tokenizer."""
    return save_tiny("gpt2", tmp_path / "tiny-gpt2")


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "tiny-llama")
