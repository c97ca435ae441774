"""`python ARGUMENTS` in a process of its own, which does not have to read the libraries again: it is forked from one that has.

Nothing of this package is imported beforehand. What libraries read from the environment while they are imported would be of another
environment, so a process with variables of its own is forked from one that has read torch alone, which takes nothing from those that the
tests set; with variables of Python's own it is started as any other.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

TORCH = ("torch", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "torch.export")
LIBRARIES = (*TORCH, "accelerate", "transformers.modeling_utils", "transformers.models.llama.modeling_llama")
READ_BY_PYTHON_OR_TORCH = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "TORCH", "LD_", "MALLOC_", "GLIBC_")
READ_WHEN_NEEDED = {"PYTEST_CURRENT_TEST", "COLUMNS", "NO_COLOR", "ALIBI_DEBUG"}
STARTED = dict(os.environ)


def python(
    *arguments: str | Path,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS`: -m MODULE, -c CODE or a script. env: in place of this process's own. fresh: transformers is not read before,
    for scripts to which it matters what is imported first."""
    words, env = [str(argument) for argument in arguments], dict(os.environ if env is None else env)
    changed = {name for name in {*env, *STARTED} - READ_WHEN_NEEDED if env.get(name) != STARTED.get(name)}
    if any(name.startswith(READ_BY_PYTHON_OR_TORCH) for name in changed):
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        wanted = {"words": words, "cwd": str(cwd or Path.cwd()), "env": env, "out": str(out), "err": str(err)}
        code = _parent(TORCH if changed or fresh else LIBRARIES).run(wanted, timeout)
        return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), err.read_text("utf-8"))


@cache
def _parent(modules: tuple[str, ...]) -> "_Parent":
    return _Parent(modules)


class _Parent:
    """The process that the others are forked from; it ends with this one."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=STARTED
        )

    def run(self, wanted: dict[str, object], timeout: float) -> int:
        """
        Returns:
            The exit code; minus the number of a signal that ended it.
        """
        assert self.process.stdin and self.process.stdout
        print(json.dumps({**wanted, "timeout": timeout}), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


def _serve(modules: list[str]) -> dict[str, object]:
    """Forks a child for each line that comes, and says how each has ended; in the child, returns what that is to do."""
    for module in modules:
        __import__(module)
    gc.freeze()  # nothing of the libraries is garbage: a child does not look through it at its end
    for line in sys.stdin:
        wanted = json.loads(line)
        if (child := os.fork()) == 0:
            return wanted
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.alarm(int(wanted["timeout"]))
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    raise SystemExit


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str, timeout: float) -> None:
    """What `python WORDS` does, in this process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    writable = os.O_WRONLY | os.O_CREAT
    for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (out, writable), (err, writable))):
        os.dup2(os.open(path, flags), number)
    sys.stdin = sys.__stdin__ = open(0)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w")  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    how, rest = words[0], words[1:]
    sys.path[0] = str(Path(how).parent) if how not in ("-m", "-c") else cwd
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    _become(**_serve(sys.argv[1:]))
