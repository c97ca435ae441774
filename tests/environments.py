"""Fresh virtual environments, kept under build/ while constraints.txt stays the same."""

import hashlib
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).parent.parent


def environment(name: str, *packages: str) -> Path:
    """The python of a virtual environment that has these packages, by constraints.txt, and nothing else."""
    constraints = (REPOSITORY / "constraints.txt").read_bytes()
    key = hashlib.sha256(constraints + " ".join(packages).encode() + sys.version.encode()).hexdigest()[:12]
    folder = REPOSITORY / "build" / "environments" / f"{name}-{key}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # tests run in several processes
        if not (folder / ".ready").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install(python, *packages)
            (folder / ".ready").touch()
    return python


def install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-q", "-c", str(REPOSITORY / "constraints.txt"), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
