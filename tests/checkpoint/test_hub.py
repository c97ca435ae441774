"""Hub ids, through the real huggingface_hub client, against a small server on loopback that speaks its protocol."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.run import alibi, alibi_json
from tests.models import save_tiny
from tests.python import python

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny"


OTHER = "fedcba9876543210fedcba9876543210fedcba98"
TOKEN = "hf_this_must_not_be_seen_anywhere"


class Hub(BaseHTTPRequestHandler):
    """broken: {file: bytes after which the connection is cut, one entry for each time}. changed: {file: what its body is, though its
    headers are those of the right one}. moves: the branch is at another commit each time that it is asked for."""

    folder: Path
    requested: list[str]
    sent: dict[str, int]
    ranges: list[str]
    broken: dict[str, list[int]]
    changed: dict[str, bytes]
    moves: bool
    asked: int
    said: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.requested.append(path)
        if path.startswith(f"/api/models/{REPOSITORY}"):
            revision = path.partition("/revision/")[2] or "main"
            if revision not in ("main", "v1", COMMIT, OTHER):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            if "/tree/" in path:
                files = [
                    {
                        "type": "file",
                        "path": p.name,
                        "size": p.stat().st_size,
                        "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                    }
                    for p in self.folder.iterdir()
                ]
                return self.send(200, json.dumps(files).encode(), {}, body)
            Hub.asked += 1
            commit = OTHER if self.moves and Hub.asked > 1 and revision == "main" else COMMIT
            info = {
                "id": REPOSITORY,
                "sha": commit,
                "siblings": [{"rfilename": p.name} for p in sorted(self.folder.iterdir())],
            }
            return self.send(200, json.dumps(info).encode(), {}, body)
        if path.startswith("/api/models/someone/gated"):
            return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if path.startswith("/api/models/someone/private"):
            said = self.headers.get("Authorization", "")
            self.said.append(said)
            return self.send(
                401, b"{}", {"X-Error-Message": f"Invalid credentials in Authorization header {said}"}, body
            )
        if path.startswith(f"/{REPOSITORY}/resolve/"):
            file = self.folder / path.rpartition("/")[2]
            if file.is_file():
                content, wanted = file.read_bytes(), self.headers.get("Range", "")
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                content = self.changed.get(file.name, content) if body else content
                if wanted:
                    self.ranges.append(f"{file.name} {wanted}")
                    first, last = wanted.removeprefix("bytes=").split("-")
                    content = content[int(first) : int(last) + 1 if last else None]
                self.sent[file.name] = self.sent.get(file.name, 0) + (len(content) if body else 0)
                return self.send(
                    206 if wanted else 200,
                    content,
                    {"X-Repo-Commit": path.split("/")[4], "ETag": etag},
                    body,
                    (self.broken.get(file.name) or [None]).pop(0) if body else None,
                )
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut_after])
        if cut_after is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    source = save_tiny("gpt2", tmp_path / "repository")
    (source / "pytorch_model.bin").write_bytes(b"never downloaded")
    Hub.folder, Hub.requested, Hub.sent, Hub.ranges = source, [], {}, []
    Hub.broken, Hub.changed, Hub.moves, Hub.asked = {}, {}, False, 0
    Hub.said = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    server.shutdown()


def test_a_hub_id_is_downloaded_converted_and_its_commit_recorded(hub: dict[str, str], tmp_path: Path) -> None:
    report = alibi_json("convert", REPOSITORY, "--revision", "v1", "-o", tmp_path / "out", env=hub)
    assert (report["source"], report["source_revision"], report["source_commit"]) == (REPOSITORY, "v1", COMMIT)
    assert report["verified"]["passed"]
    assert json.loads((tmp_path / "out" / "alibi.json").read_text())["source_commit"] == COMMIT
    assert f"base_model: {REPOSITORY}" in (tmp_path / "out" / "README.md").read_text()
    assert not any(path.endswith("pytorch_model.bin") for path in Hub.requested)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    offline = {**hub, "HF_HUB_OFFLINE": "1"}
    assert (
        alibi_json("convert", REPOSITORY, "--revision", "v1", "-o", tmp_path / "again", env=offline)["source_commit"]
        == COMMIT
    )


def test_a_dry_run_reads_headers_and_leaves_the_weights_where_they_are(hub: dict[str, str], tmp_path: Path) -> None:
    plan = alibi_json("convert", REPOSITORY, "-o", tmp_path / "out", "--dry-run", env=hub)
    assert plan["tensors"] == {"copied": 27, "dropped": ["transformer.wpe.weight"], "added": [], "changed": []}
    assert plan["source_commit"] == COMMIT and plan["bytes_to_write"] > 100_000
    assert not list((tmp_path / "home").rglob("*.safetensors")) and not (tmp_path / "out").exists()
    assert Hub.sent["model.safetensors"] < Hub.folder.joinpath("model.safetensors").stat().st_size
    assert alibi_json("inspect", "slopes", REPOSITORY, env=hub)["n_heads"] == 6


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["someone/absent"], "no Hub repository", 2),
        ([REPOSITORY, "--revision", "v9"], "no revision v9", 2),
        (["someone/gated"], "restricted", 1),
        (["someone/private"], "does not accept", 1),
        (["not a name"], "not the name", 2),
    ],
)
def test_what_goes_wrong_on_the_hub_is_one_clear_line(
    arguments: list[str], says: str, code: int, hub: dict[str, str], tmp_path: Path
) -> None:
    result = alibi("convert", *arguments, "-o", tmp_path / "out", env=hub, code=code)
    assert says in result.stderr and result.stderr.count("\n") <= 2 and not (tmp_path / "out").exists()


def test_a_broken_download_is_resumed_where_it_broke(hub: dict[str, str], tmp_path: Path) -> None:
    """The client goes on by itself, in pieces of 10 MB; where the server stays away, the next run fetches what is missing alone."""
    (Hub.folder / "large.txt").write_bytes(b"x" * 11_000_000)
    Hub.broken = {"large.txt": [10_600_000], "model.safetensors": [0] * 99}
    arguments = ["convert", REPOSITORY, "-o", tmp_path / "out", "--no-verify", "--json"]
    result = alibi(*arguments, env=hub, code=1)
    assert "large.txt bytes=10485760-" in Hub.ranges
    assert result.stderr.startswith("Error: Downloading") and result.stderr.count("\n") <= 3
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.*"))
    Hub.broken, Hub.sent = {}, {}
    alibi(*arguments, env=hub)
    assert {name for name, n in Hub.sent.items() if n} == {"model.safetensors"}
    assert (tmp_path / "out" / "large.txt").stat().st_size == 11_000_000


def test_a_file_that_changes_between_requests_is_found(hub: dict[str, str], tmp_path: Path) -> None:
    """Its headers announce one content, its body is another: of the same size, which the client does not notice, and of another."""
    content = bytearray((Hub.folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    Hub.changed = {"model.safetensors": bytes(content)}
    result = alibi("convert", REPOSITORY, "-o", tmp_path / "out", env=hub, code=1)
    assert "is not the file that was to be downloaded" in result.stderr and result.stderr.count("\n") <= 3
    shutil.rmtree(tmp_path / "home")
    Hub.changed = {"model.safetensors": bytes(content[:-100])}
    result = alibi("convert", REPOSITORY, "-o", tmp_path / "out", env=hub, code=1)
    assert result.stderr.startswith("Error: Downloading") and result.stderr.count("\n") <= 3
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.*"))


def test_a_branch_that_moves_between_requests_is_read_at_one_commit(hub: dict[str, str], tmp_path: Path) -> None:
    Hub.moves = True
    (Hub.folder / "model.safetensors").rename(
        Hub.folder / "weights"
    )  # pickled weights only, which are looked for twice
    torch.save(load_file(Hub.folder / "weights"), Hub.folder / "pytorch_model.bin")
    (Hub.folder / "weights").unlink()
    report = alibi_json("convert", REPOSITORY, "-o", tmp_path / "out", env=hub)
    assert report["verified"]["passed"]
    (snapshot,) = {path.split("/")[4] for path in Hub.requested if path.endswith("pytorch_model.bin")}
    assert report["source_commit"] == snapshot


def test_a_token_is_sent_and_never_shown(hub: dict[str, str], tmp_path: Path) -> None:
    """The server of the private repository says the token back in its error."""
    env, seen = {**hub, "HF_TOKEN": TOKEN}, []
    for code, command in (
        (0, ["convert", REPOSITORY, "-o", tmp_path / "out", "--no-verify"]),
        (0, ["eval", REPOSITORY, "--lengths", "8,16", "--max-segments", "2", "--output", tmp_path / "r.json"]),
        (1, ["convert", "someone/private", "-o", tmp_path / "other"]),
    ):
        result = alibi(*command, env=env, code=code)
        seen += [result.stdout, result.stderr]
    written = [path for path in [*(tmp_path / "out").rglob("*"), *tmp_path.glob("r.*")] if path.is_file()]
    assert len(written) > 10 and not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert not any(TOKEN in text for text in seen)
    assert any(TOKEN in said for said in Hub.said), "the control: the server did get it"


def test_an_unreachable_hub_is_one_clear_line(tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    result = alibi("convert", "someone/tiny", "-o", tmp_path / "out", env=env, code=1)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") <= 2


IN_MEMORY = """
import sys
from transformers import AutoModelForCausalLM
from alibi_cli.models.language_model import in_memory
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.config._name_or_path, model.config._commit_hash = sys.argv[2:]
print(in_memory(model).folder.name)
"""


def test_a_model_in_memory_takes_the_tokenizer_of_its_commit_and_no_weights(
    hub: dict[str, str], tmp_path: Path
) -> None:
    result = python("-c", IN_MEMORY, tmp_path / "repository", REPOSITORY, OTHER, env={**os.environ, **hub})
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == OTHER and Hub.sent["tokenizer.json"]
    assert not any(Hub.sent.get(name) for name in ("model.safetensors", "pytorch_model.bin"))
