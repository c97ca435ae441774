"""`transformers serve`: a conversation over the OpenAI protocol, with the checkpoint's own chat template."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.ecosystem.checkpoints import Checkpoint, ids_of, log_probabilities
from tests.ecosystem.conftest import WAYS

TEMPLATE = """{% for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
RUN = "import alibi_cli; from transformers.cli.transformers import main; main()"
COUNT = 12
TALK = [{"role": "user", "content": "def attention("}]


def answer(folder: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RUN, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu"]
    said = folder / "server.log"
    server = subprocess.Popen(command, env=os.environ, stdout=said.open("w"), stderr=subprocess.STDOUT)
    settings = {"temperature": 0.0, "max_tokens": COUNT, "stream": False}
    body = json.dumps({"model": str(folder), "messages": TALK, **settings}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        for _ in range(1200):
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    return json.load(reply)["choices"][0]["message"]["content"]
            except ConnectionError:
                pass
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError):
                    raise
            assert server.poll() is None, said.read_text()
            time.sleep(0.5)
        raise TimeoutError("no answer")
    finally:
        server.terminate()
        server.wait()


def test_chat(llama: Checkpoint, record: Any, tmp_path: Path) -> None:
    """With `import alibi_cli` alone: the server looks for the architecture in transformers, whatever it may trust."""
    way = WAYS["installed"]
    folder = tmp_path / "chat"
    shutil.copytree(llama.folder, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = way.tokenizer(folder)
    prompt = tokenizer.apply_chat_template(
        TALK, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    assert prompt[0].tolist() == ids_of("user: def attention(\nassistant:")

    def by_hand(each: Path) -> str:
        model, ids = way.model(each), prompt
        for _ in range(COUNT):
            ids = torch.cat([ids, log_probabilities(model, ids)[:, -1:].argmax(-1)], dim=1)
        return tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)

    def original(prompt: torch.Tensor) -> str:
        model = AutoModelForCausalLM.from_pretrained(llama.source)
        ids = model.generate(prompt, max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0)
        return tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)

    found = answer(folder)
    expected, control = by_hand(folder), original(prompt)
    differ = sum(a != b for a, b in zip(found.ljust(COUNT), expected.ljust(COUNT), strict=False))
    assert found == expected != control
    others = sum(a != b for a, b in zip(control.ljust(COUNT), expected.ljust(COUNT), strict=False))
    record(
        "transformers",
        f"serve, chat over HTTP: characters of {COUNT} that differ from greedy decoding by hand",
        differ,
        others,
    )
