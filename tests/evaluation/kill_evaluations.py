"""Kills evaluations at many moments, resumes them, and compares with one that nobody disturbed; prints one JSON object.

python -m tests.evaluation.kill_evaluations FOLDER N_BYTES MODEL...
"""

import gc
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from alibi_cli.silence import silence_libraries
from alibi_cli.text.documents import Text
from tests.evaluation.helpers import asked, evaluate
from tests.killing import Meter, in_child, moments

TIMES = ("seconds", "tokens_per_second", "peak_bytes")


def facts(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """A results file and its record, without what no two runs have in common."""
    results = json.loads(path.read_text())
    results["rows"] = [{key: row[key] for key in row if key not in TIMES} for row in results["rows"]]
    return results, load_file(path.with_suffix(".nll.safetensors"))


def main(folder: Path, n_bytes: int, models: list[str]) -> dict:
    text = Text("sample", [(f"d{i}", f"{i} is the number of this document, which goes on. " * 2) for i in range(5)])
    output, baseline = folder / "r.json", {"baseline": models[0]} if len(models) > 1 else {}
    found = {"kills": 0, "rows": [], "failures": []}

    def run(resume: bool = True) -> None:
        evaluate(asked(models, (8, 16, 32), text, output=output, resume=resume, **baseline))

    def clean() -> None:
        for path in folder.iterdir():
            path.unlink()

    run()
    whole, record = facts(output)
    clean()
    places = moments(run, n_bytes)
    for place in places:
        clean()
        if not in_child(run, Meter(**place)):
            continue
        found["kills"] += 1
        found["rows"].append(len(json.loads(output.read_text())["rows"]) if output.exists() else 0)
        run()
        again, again_record = facts(output)
        same = again == whole and record.keys() == again_record.keys()
        if not same or any(not np.array_equal(record[key], again_record[key]) for key in record):
            found["failures"].append(f"{place}: another result")
        if {path.name for path in folder.iterdir()} != {"r.json", "r.nll.safetensors"}:
            found["failures"].append(f"{place}: something is left")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    gc.freeze()  # what was imported is not looked through again and again
    json.dump(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]), sys.stdout)
