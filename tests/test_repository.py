"""The files around the code: each fits its schema, and what two of them say is the same."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

import alibi_cli
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
SOURCE = PROJECT["urls"]["Source"]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}  # https://keepachangelog.com/en/1.1.0/
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": FORMS,
    "github-issue-config": [REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "dependabot": [REPOSITORY / ".github" / "dependabot.yml"],
    "citation-file-format": [REPOSITORY / "CITATION.cff"],
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def fits(schema: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    command += ["--default-filetype", "yaml", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_their_schemas(schema: str, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    result = fits(schema, *SCHEMAS[schema])
    assert SCHEMAS[schema] and result.returncode == 0, result.stdout
    broken = tmp_path / "broken.yml"  # the control
    broken.write_text(f"an_invented_key: 1\n{SCHEMAS[schema][0].read_text()}")
    assert fits(schema, broken).returncode == 1


def test_workflows_call_what_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(step.get("run", "") for path in WORKFLOWS for step in steps(path))
    called = set(re.findall(r"^make ([\w-]+)$", commands, re.MULTILINE))
    assert {"lint", "fuzz", "test"} <= called <= targets
    for path in re.findall(r"\btests/[\w/.]+", commands):
        assert (REPOSITORY / path).exists(), path


def test_workflows_have_few_rights_and_an_end() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}, path
        for name, job in workflow["jobs"].items():
            assert job["timeout-minutes"] <= 120, name
            allowed = {"deploy": {"pages": "write", "id-token": "write"}, "publish": {"id-token": "write"}}.get(name)
            assert job.get("permissions") == allowed, name
    assert "password" not in (REPOSITORY / ".github" / "workflows" / "release.yml").read_text()


def test_supported_versions_are_the_tested_ones() -> None:
    jobs = read(REPOSITORY / ".github" / "workflows" / "tests.yml")["jobs"]
    tested = jobs["python"]["strategy"]["matrix"]["python-version"]
    stated = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == stated and PROJECT["requires-python"] == f">={tested[0]}"
    (bounds,) = [line for line in PROJECT["dependencies"] if line.startswith("transformers")]
    oldest, newest = (row["transformers"] for row in jobs["transformers"]["strategy"]["matrix"]["include"])
    lowest = bounds.removeprefix("transformers>=").split(",")[0]
    assert newest == bounds and re.fullmatch(rf"transformers=={re.escape(lowest)}(\.0)*", oldest)


def test_the_version_is_declared_once() -> None:
    version = alibi_cli.__version__
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert read(REPOSITORY / "CITATION.cff")["version"] == version
    released = re.findall(r"^## ([\d.]+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [*map(int, version.split("."))] >= [*map(int, released[0].split("."))]


def test_the_repository_has_one_address() -> None:
    """[project.urls] of pyproject.toml declares it."""
    assert read(REPOSITORY / "CITATION.cff")["repository-code"] == SOURCE
    owner, name = SOURCE.rsplit("/", 2)[1:]
    assert all(url.startswith((SOURCE, f"https://{owner}.github.io/{name}/")) for url in PROJECT["urls"].values())
    names = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md", "mkdocs.yml"]
    pages = [REPOSITORY / each for each in names if (REPOSITORY / each).exists()]
    found = []
    for path in [*pages, *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / ".github").rglob("*.*")]:
        found += re.findall(rf"https://github\.com/[\w-]+/{name}(?![\w-])", path.read_text())
    assert len(found) >= 3 and set(found) == {SOURCE}


def test_the_changelog_has_the_headings_of_keep_a_changelog() -> None:
    headings = re.findall(r"^(##+) (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    releases = [name for level, name in headings if level == "##"]
    assert releases[0] == "Unreleased" and len(releases) >= 2
    assert all(re.fullmatch(r"\d+\.\d+\.\d+( - \d{4}-\d\d-\d\d| \(not published\))", name) for name in releases[1:])
    kinds = [name for level, name in headings if level == "###"]
    assert set(kinds) <= CHANGES and {"Added", "Changed", "Fixed", "Removed"} <= set(kinds)


def test_hooks_run_the_versions_that_lint_runs() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    hooks = {Path(r["repo"]).name: r.get("rev") for r in read(REPOSITORY / ".pre-commit-config.yaml")["repos"]}
    assert hooks == {
        "ruff-pre-commit": f"v{pins['ruff']}",
        "codespell": f"v{pins['codespell']}",
        "check-jsonschema": pins["check-jsonschema"],
        "local": None,
    }


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_pages_name_files_that_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    named = re.findall(r"\]\((?!https:)([^)#]+)", text)
    named += re.findall(r"`((?:alibi_cli|tests|scripts|\.github)/[\w/.]*[\w/])`", text)
    assert named
    for name in named:
        assert (REPOSITORY / name).exists(), name
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets


def test_a_source_distribution_holds_every_file_that_the_repository_holds(tmp_path: Path) -> None:
    """So its tests pass: they read pages, records, fixtures, workflows and each other."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert archive.name == f"alibi_cli-{alibi_cli.__version__}.tar.gz"
    folders = ("alibi_cli", "benchmarks", "docs", "examples", "presets", "scripts", "tests", ".ci", ".github")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    paths += [path for path in REPOSITORY.iterdir() if path.suffix in (".md", ".toml", ".txt", ".yml", ".yaml", ".cff")]
    paths += [REPOSITORY / name for name in ("LICENSE", "Makefile", ".gitignore")]
    names = {path.relative_to(REPOSITORY).as_posix() for path in paths if path.is_file()}
    missing = {name for name in names - held if "__pycache__" not in name and ".ipynb_checkpoints" not in name}
    assert len(names) > 300 and not missing
    with tarfile.open(archive) as file:  # what pip reads
        (about,) = [name for name in file.getnames() if name.endswith("/PKG-INFO")]
        text = file.extractfile(about).read().decode()  # type: ignore[union-attr]
    assert f"Version: {alibi_cli.__version__}\n" in text and f"Project-URL: Source, {SOURCE}\n" in text


def test_the_version_is_in_the_records_of_what_is_written(tmp_path: Path) -> None:
    from tests.models import save_tiny

    alibi_cli.convert(save_tiny("gpt2", tmp_path / "m"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "alibi.json").read_text())
    assert record["versions"]["alibi-cli"] == alibi_cli.__version__
    assert f"alibi-cli {alibi_cli.__version__}" in (tmp_path / "out" / "README.md").read_text()
