"""Kills conversions at many moments and looks at what is left; prints one JSON object.

python -m tests.checkpoint.kill_conversions SOURCE FOLDER N_BYTES EVERY [--careless]

EVERY: 2 leaves every second moment out. A program of its own, because it forks: a process that has imported everything is copied in a
millisecond. `--careless` is the negative control: it writes straight under the final name, which must be found out.
"""

import contextlib
import gc
import json
import shutil
import sys
from pathlib import Path

import torch

from alibi_cli import AlibiError
from alibi_cli.conversion import writer
from alibi_cli.conversion.verify import verify
from alibi_cli.silence import silence_libraries
from tests.checkpoint.helpers import convert, plan_of, snapshot
from tests.killing import Meter, in_child, moments


def complete(folder: Path) -> bool:
    try:
        return verify(folder).passed
    except AlibiError:
        return False


@contextlib.contextmanager
def careless(output: Path, replace: bool = True):
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    yield output


def main(source: Path, folder: Path, n_bytes: int, every: int) -> dict:
    before, output = snapshot(source), folder / "out"
    plan = plan_of(source, output, max_bias=4.0)  # once: a plan reads, and writes nothing
    found = {"kills": 0, "absent": 0, "old": 0, "new": 0, "failures": []}

    def clean() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def look(what: str, good: bool) -> None:
        if not good:
            found["failures"].append(what)

    for replacing in (False, True):

        def work(check: bool = False, replacing: bool = replacing) -> None:
            writer.write(plan, force=replacing, check=check)

        clean()
        if replacing:
            convert(source, output, check=False)
            shutil.copytree(output, folder.with_name("old"), dirs_exist_ok=True)
        places = moments(work, n_bytes)[::every]
        for index, place in enumerate(places):
            clean()
            if replacing:
                shutil.copytree(folder.with_name("old"), output)
            check = index % 20 == 0  # verification takes long and writes nothing
            if not in_child(lambda check=check: work(check), Meter(**place)):
                continue
            where = f"{place}, {'replacing' if replacing else 'new'}"
            found["kills"] += 1
            look(f"{where}: the source changed", snapshot(source) == before)
            if not output.exists():
                found["absent"] += 1
            else:
                look(f"{where}: not whole", complete(output))
                facts = output / "alibi.json"
                new = facts.is_file() and "max_bias" in json.loads(facts.read_text())["slopes_scheme"]
                found["new" if new else "old"] += 1
            refused = output.exists() or replacing
            try:  # without --force: what was there is put back first, and not replaced
                writer.write(plan, force=False, check=False)
                look(f"{where}: something was replaced unasked", not refused)
            except AlibiError as error:
                look(f"{where}: {error.message}", refused and "not empty" in error.message)
                look(f"{where}: the old folder is lost", complete(output))
                writer.write(plan, force=True, check=False)
            look(f"{where}: the next run left something", [path.name for path in folder.iterdir()] == ["out"])
            look(f"{where}: the next run is not whole", complete(output))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    gc.freeze()  # what was imported is not looked through again and again
    if "--careless" in sys.argv:
        writer.partial_folder = careless
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])), sys.stdout)
