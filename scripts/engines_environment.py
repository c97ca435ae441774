"""An environment with the engines that run exported checkpoints: the packages of the environment that runs this, and the extra `gguf`.

    python scripts/engines_environment.py build/engines

They stay out of the environment of `make test`, which needs none of them. What is already there is kept.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ENGINES = ("gguf", "xllamacpp")


def main() -> None:
    folder, repository = Path(sys.argv[1]), Path(__file__).parent.parent
    ready, constraints = folder / "ready", (repository / "constraints.txt").read_text()
    if ready.is_file() and ready.read_text() == constraints:
        return
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    borrowed = f"{sysconfig.get_path('purelib')}\n{repository.resolve()}\n"
    (Path(own.stdout.strip()) / "borrowed.pth").write_text(borrowed)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", repository / "constraints.txt", *ENGINES], check=True)
    ready.write_text(constraints)


if __name__ == "__main__":
    main()
