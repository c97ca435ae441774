"""An environment of its own for tests that want more than `make test`: the packages of the environment that runs this, and others.

    python scripts/engines_environment.py build/engines -c constraints.txt gguf xllamacpp
    python scripts/engines_environment.py build/ecosystem --no-deps -r tests/ecosystem/requirements.txt

What follows the folder is for pip. An environment that was made with the same words and files is kept.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    repository = Path(__file__).parent.parent
    files = [repository / "constraints.txt", *(Path(word) for word in wanted if Path(word).is_file())]
    ready, state = folder / "ready", "\n".join([*wanted, *(file.read_text() for file in files)])
    if ready.is_file() and ready.read_text() == state:
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
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    ready.write_text(state)


if __name__ == "__main__":
    main()
