"""The built wheel, in an environment that has nothing else."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.environments import environment, install


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

    python = environment("wheel", "torch")  # torch is the bulk of it: kept between runs, the package is not
    install(python, "--force-reinstall", "--no-deps", str(wheel))
    install(python, str(wheel))
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
