"""Runs the commands of console blocks that show output, and writes what they print. `--check` compares instead, figures with a tolerance.

    python scripts/write_console_output.py [--check] [llama.cpp | vllm]

A block shows output if a line of it does not begin with `$ `. The commands of all pages run in one empty folder, a command once. Only
stdout is shown, and none of a command that shows none. A line `…` stands for as many lines as it takes. Blocks that need an engine are
run when it is named, in an environment that has it, and with them the conversions of the page that they need.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alibi_cli.text.documents import load_text

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/start/tutorial.md", "docs/engines.md", "docs/vllm.md")
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
OF_THE_MACHINE = re.compile(r"(?<= in )[\d.]+ s\b|[\d.]+ \w+ free|(?<= by )[\d.]+e[+-]\d+")
DIGEST = re.compile(r"(?<=sha256 )[0-9a-f]{12}|(?<=set )[0-9a-f]{12}")
RELATIVE, ABSOLUTE = 0.05, 0.005  # other processors add in another order; a figure near zero may change its sign
WIDTH = "100"
PATIENCE = 600


def steps(block: str) -> Iterator[tuple[str, str]]:
    """(command, output) of each command of a block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def shown(block: str) -> bool:
    return any(output.strip() for _, output in steps(block))


def engine(block: str) -> str:
    """Which engine the commands of a block need, or "" if none."""
    commands = [command for command, _ in steps(block)]
    if any(command.startswith("vllm ") for command in commands):
        return "vllm"
    return "llama.cpp" if any(".gguf" in command for command in commands) else ""


def written(command: str) -> str:
    """The folder or file that a command writes, or ""."""
    return "".join(re.findall(r" -o (\S+)", command)[:1])


def python(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@contextmanager
def server(*words: str | Path, folder: Path) -> Iterator[str]:
    """`vllm serve WORDS` at a free port, ready to answer; gives its address. Its log stays in the folder.

    Raises:
        RuntimeError: it ended before it was ready, or was not in PATIENCE seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", *words, "--host", "127.0.0.1", "--port", str(port)]
    # On a CPU, where vLLM would take nearly all memory for its cache, or not start if that is not free.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"vllm is not ready: {log.read_text()[-8000:]}") from None
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Shell:
    """Runs commands in one folder; `alibi` and `vllm` are those of the environment that runs this. A command runs once."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.folder, self.servers, self.address = folder, servers, ""
        self.printed: dict[str, str] = {}

    def __call__(self, command: str) -> str:
        """What a command prints.

        Raises:
            SystemExit: it failed.
        """
        if command not in self.printed:
            output = self._run(shlex.split(command, comments=True))
            self.printed[command] = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
        return self.printed[command]

    def _run(self, words: list[str]) -> str:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"}
        if words[:2] == ["vllm", "serve"]:
            self.address = self.servers.enter_context(server(*words[2:], folder=self.folder))
            return ""
        if words[0] == "alibi":
            result = python("-m", "alibi_cli", *words[1:], cwd=self.folder, env=environment)
        elif words[:2] == ["vllm", "complete"]:
            vllm = str(Path(sys.executable).with_name("vllm"))
            result = python(vllm, *words[1:], "--url", self.address, cwd=self.folder, env=environment)
        else:
            raise SystemExit(f"Only commands of alibi and vllm are run for their output, not: {shlex.join(words)}")
        if result.returncode:
            raise SystemExit(f"{shlex.join(words)} exited with {result.returncode}: {result.stderr}")
        return result.stdout


def elided(new: str, old: str) -> str:
    """The new output with as many lines before and after a `…` as the old one has."""
    lines, kept = new.splitlines(), old.splitlines()
    if "…" not in kept:
        return new
    place = kept.index("…")
    after = len(kept) - place - 1
    return "\n".join([*lines[:place], "…", *lines[len(lines) - after :], ""])


def same(new: str, old: str, figures: bool = True) -> bool:
    """Text equal; figures nearly, or not compared."""
    one, other = (
        re.sub(r"[ +−-]+", " ", DIGEST.sub("0", OF_THE_MACHINE.sub("0", text))).strip() for text in (new, old)
    )
    if NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return not figures or all(abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b)) for a, b in values)


def main(wanted: str = "", check: bool = False) -> None:
    # The embedded text is that of the Python that runs. Of another one's, figures differ, and their places are compared alone.
    figures = load_text().sha256[:12] in (ROOT / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        shell = Shell(Path(name), servers)
        for page in PAGES:
            path = ROOT / page
            text = path.read_text(encoding="utf-8")
            blocks = BLOCK.findall(text)
            for block in blocks:
                if not shown(block) or engine(block) != wanted:
                    continue
                for command, _ in (step for earlier in blocks[: blocks.index(block)] for step in steps(earlier)):
                    if command.startswith("alibi convert") and written(command) in block.split():
                        shell(command)
                new = ""
                for command, output in steps(block):
                    printed = shell(command)
                    found = elided(printed, output) if output.strip() else ""
                    new += f"$ {command}\n{found}"
                    if check and not same(found, output, figures):
                        raise SystemExit(f"{page} is stale: `{command}` prints\n{found}")
                text = text.replace(f"```console\n{block}```", f"```console\n{new}```")
            if not check:
                path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if word != "--check"]
    main(named[0] if named else "", check="--check" in sys.argv)
