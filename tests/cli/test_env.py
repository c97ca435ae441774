"""alibi env: what a bug report needs, and nothing that it must not hold."""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path

import pytest
import torch

import alibi_cli as alibi
from alibi_cli import environment
from alibi_cli.launcher import Place, place
from tests.cli.run import alibi as run
from tests.cli.run import alibi_inside, alibi_json


def test_the_table_holds_what_the_json_holds() -> None:
    found, table = alibi_json("env", run=alibi_inside), alibi_inside("env").stdout
    assert found["alibi_cli"] == alibi.__version__ and found["python"] == platform.python_version()
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert f"{torch.get_num_threads()} threads" in found["devices"]["cpu"]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert all(len(row) == 2 for row in rows[2:]) and rows[1] == ["---|---"]
    shown = dict(rows[2:])
    assert shown["alibi-cli"] == found["alibi_cli"] and shown["transformers"] == found["packages"]["transformers"]
    assert set(found["devices"]) <= set(shown)


def test_secrets_and_the_home_directory_are_not_shown(tmp_path: Path) -> None:
    """In a process of its own, because huggingface_hub reads the variables when it is imported."""
    variables = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "cache"),
        "HF_TOKEN": "hf_a_secret",
        "WANDB_API_KEY": "another_secret",
        "HF_ENDPOINT": "https://somebody:a_password@mirror.example",
        "ALIBI_DEBUG": "0",
    }
    table = run("env", env=variables).stdout
    plain = run("env", "--json", env={**variables, "HF_TOKEN": ""}).stdout
    for output in (table, plain):
        assert not any(secret in output for secret in ("hf_a_secret", "another_secret", "a_password", "somebody"))
        assert str(tmp_path) not in output and "~/cache" in output and "mirror.example" in output
    assert "| token for the Hub | found |" in table
    assert json.loads(plain)["hub_token"] is False and json.loads(plain)["variables"]["ALIBI_DEBUG"] == "0"


def test_an_extra_that_is_not_installed_is_named_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: list[str] = []

    def version(name: str) -> str:
        if name in absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(environment, "version", version)
    found = alibi.inspect_environment()
    assert found.extras["gguf"] == [] and "dev" not in found.extras and "| extra gguf | found |" in found.markdown()
    absent.append("gguf")
    found = alibi.inspect_environment()
    assert found.extras["gguf"] == ["gguf"] and found.packages["gguf"] is None
    assert "| extra gguf | lacks gguf |" in found.markdown()


def test_a_torch_that_cannot_be_imported_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch cannot be imported" in alibi.inspect_environment().devices["cpu"]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, Place()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place()),  # of a scheduler, which starts nothing together
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, Place(1, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Place()),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, Place()),
    ],
)
def test_a_launcher_is_told_by_what_it_alone_sets(variables: dict[str, str], found: Place, monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place() == found
