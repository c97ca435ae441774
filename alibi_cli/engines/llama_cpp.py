"""A GGUF file in the real llama.cpp, through the HTTP interface of its server: ids of a text, and log-probabilities of given tokens.

The package xllamacpp, an extra, brings llama.cpp ready to run.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from alibi_cli.errors import AlibiError, UsageError

PACKAGE = "xllamacpp"
FORCE = 1e6  # added to the logit of a token that the server is to sample; the probabilities that it tells are those without it


def engine_version() -> str | None:
    """ "xllamacpp 2026.10.11549"; None if there is no engine."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return None


def require_engine() -> str:
    """
    Raises:
        AlibiError: it is not installed.
    """
    if (found := engine_version()) is None:
        raise UsageError("GGUF files are run by llama.cpp, which is not installed.", "pip install 'alibi-cli[gguf]'")
    return found


class Engine:
    """A running server."""

    def __init__(self, file: Path, address: str):
        self.file = file
        self.connection = http.client.HTTPConnection(urlsplit(address).netloc)
        self.n_tokens = 0

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text; special: with the tokens that the file says to put around it."""
        return [int(each) for each in self._post("/tokenize", {"content": text, "add_special": special})["tokens"]]

    def pieces(self, text: str) -> list[tuple[int, bytes]]:
        """Ids of a text without special tokens, and the bytes that each stands for."""
        answer = self._post("/tokenize", {"content": text, "add_special": False, "with_pieces": True})["tokens"]
        return [(int(each["id"]), _bytes_of(each["piece"])) for each in answer]

    def text(self, ids: list[int]) -> str:
        return str(self._post("/detokenize", {"tokens": ids})["content"])

    def log_probabilities(self, ids: Sequence[int], first: int = 1) -> list[float]:
        """Of the tokens from position `first` on, given all that come before each, in nats.

        The server tells the log-probability of the token that it samples, from the model's own logits; so each token is sampled by force.
        Of a token whose bytes are no whole character it tells none; then all of the vocabulary is asked for. What two requests share stays
        in the cache: a window is read once, and then a token a time. (A grammar of tokens would do it in one request, but llama.cpp ends at
        the first token that is no whole character.)
        """
        return [self._log_probability(ids[:place], ids[place]) for place in range(first, len(ids))]

    def _log_probability(self, prompt: Sequence[int], target: int) -> float:
        request = {**self._request(prompt), "n_predict": 1, "logit_bias": [[target, FORCE]]}
        found = self._probabilities(request)
        if not found or found[0]["id"] != target:
            request |= {"n_probs": self._size(), "logit_bias": [[self._whole_character(), FORCE]]}
            found = self._probabilities(request)
            found = [each for each in found[0]["top_logprobs"] if each["id"] == target] if found else []
        if not found:
            raise AlibiError(f"llama.cpp gives no probability of token {target} by {self.file}.")
        return float(found[0]["logprob"])

    @staticmethod
    def _request(prompt: Sequence[int]) -> dict[str, Any]:
        return {
            "prompt": list(prompt), "n_probs": 1, "temperature": 0, "samplers": [], "cache_prompt": True, "id_slot": 0,
            "response_fields": ["completion_probabilities"],
        }  # fmt: skip

    def _probabilities(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._post("/completion", request).get("completion_probabilities", [])
        return found

    def _size(self) -> int:
        if not self.n_tokens:
            self.n_tokens = int(self._get("/v1/models")["data"][0]["meta"]["n_vocab"])
        return self.n_tokens

    def _whole_character(self) -> int:
        return self.tokenize("a")[-1]

    def _get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        """
        Raises:
            AlibiError: the engine refused, or ended.
        """
        connection = self.connection
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise AlibiError(f"llama.cpp ended while it ran {self.file}.", type(error).__name__) from None
        if response.status != http.HTTPStatus.OK:
            raise AlibiError(
                f"llama.cpp refused a request on {self.file}: {answer.get('error', {}).get('message', answer)}"
            )
        return answer


@contextmanager
def running(file: Path, context: int, exact: bool = True, threads: int | None = None) -> Iterator[Engine]:
    """The engine with a file loaded. context: tokens of the longest window. exact: a float32 cache and plain attention, on the CPU;
    otherwise llama.cpp's own choices.

    Raises:
        AlibiError: the engine is not installed, or does not load the file.
    """
    require_engine()
    wanted = {
        "file": str(file), "context": context + 8, "exact": exact, "threads": threads or _threads(),
    }  # fmt: skip
    command = [sys.executable, "-m", "alibi_cli.engines.llama_cpp_process", json.dumps(wanted)]
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
        try:
            yield _started(process, file, said)
        finally:
            process.kill()
            process.communicate()


def _started(process: "subprocess.Popen[str]", file: Path, said: TextIO) -> Engine:
    """
    Raises:
        AlibiError: the file was not loaded, with llama.cpp's reason.
    """
    assert process.stdout is not None
    if answer := process.stdout.readline():
        return Engine(file, json.loads(answer)["address"])
    process.wait()
    said.seek(0)
    reasons = [line.rpartition("error loading model: ")[2].strip() for line in said if "error loading model: " in line]
    raise AlibiError(f"llama.cpp does not load {file}{f': {reasons[0]}' if reasons else ''}.")


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list is of nested loops
    if asked.isdigit():
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bytes_of(piece: str | list[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)
