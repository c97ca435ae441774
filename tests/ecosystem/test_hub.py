"""huggingface_hub: push_to_hub to a small server on loopback; tests/checkpoint/test_hub.py downloads from one."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.test_hub import COMMIT, REPOSITORY, Hub
from tests.ecosystem.checkpoints import Checkpoint, Way, apart, log_probabilities, text_tokens


class Writable(Hub):
    """The same Hub, which also takes commits; files come inside them."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path.endswith("/repos/create"):
            answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/{REPOSITORY}", "name": REPOSITORY}
        elif "/preupload/" in path:
            names = [each["path"] for each in json.loads(content)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    (self.folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
            answer = {"commitUrl": f"http://{self.headers['Host']}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT}
        else:
            answer = {"errors": [], "warnings": []}
        self.send(200, json.dumps(answer).encode(), {}, True)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """One for all tests: huggingface_hub keeps the first that it was given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Writable)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_push_to_hub(
    checkpoint: Checkpoint, way: Way, record: Any, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    Hub.asked = 0
    Writable.folder, Writable.requested, Writable.sent, Writable.ranges = tmp_path / "hub", [], {}, []
    Writable.broken, Writable.changed, Writable.moves, Writable.asked, Writable.said = {}, {}, False, 0, []
    Writable.folder.mkdir()
    for name, value in (("HF_HUB_OFFLINE", False), ("ENDPOINT", endpoint), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    model, tokens = way.model(checkpoint.folder), text_tokens()
    model.push_to_hub(REPOSITORY)
    way.tokenizer(checkpoint.folder).push_to_hub(REPOSITORY)
    assert {"config.json", "model.safetensors", "modeling_alibi.py", "tokenizer.json"} <= {
        path.name for path in Writable.folder.iterdir()
    }
    expected = checkpoint.textbook(tokens)
    difference = apart(log_probabilities(way.model(Writable.folder), tokens), expected)
    control = apart(log_probabilities(way.model(checkpoint.steeper), tokens), expected)
    assert difference < 1e-4 < control
    record(
        "huggingface_hub",
        "push_to_hub, loaded from what arrived: log-probabilities, by the definition",
        difference,
        control,
    )
