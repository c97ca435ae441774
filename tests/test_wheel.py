"""The built wheel, in an environment that has nothing but what the wheel says that it requires."""

import json
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.environments import environment, pip


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(content.read(name))


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "presets/demo.yaml",
        "presets/demo-gpt2/model.safetensors",
        "presets/demo-llama/model.safetensors",
        "runtime/modeling_alibi.py",
    ):
        assert f"alibi_cli/{wanted}" in names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)

    required = metadata(wheel).get_all("Requires-Dist")
    python = environment(tmp_path / "empty", *(line for line in required if "extra ==" not in line))
    pip(python, "install", "--no-index", str(wheel))
    pip(python, "check")
    alibi = python.parent / "alibi"

    def run(*arguments: str) -> str:
        return subprocess.run([str(alibi), *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert "demo" in run("inspect", "presets")
    assert run("--version").startswith("alibi-cli ")
    report = json.loads(run("convert", "demo-llama", "-o", "out", "--json"))
    assert report["verified"]["passed"]
    results = json.loads(
        run("eval", "out", "--baseline", "demo-llama", "--lengths", "64,128", "--max-segments", "4", "--json")
    )
    assert [row["status"] for row in results["rows"]] == ["ok"] * 4
    where = subprocess.run(
        [str(python), "-I", "-c", "import alibi_cli; print(alibi_cli.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(python.parent.parent) in where.stdout
