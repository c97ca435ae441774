"""Runs the arms that have no record yet, two at a time, one thread each.

    python -m benchmarks.healing.run [--workers 2] [--only PATTERN] [--list]

Every arm is a command line of `alibi` in a process of its own, followed by `alibi eval` and `alibi task passkey`. Checkpoints and
logs go to build/healing; what the report needs of an arm goes to benchmarks/healing/records/ARM.json. An interrupted run continues.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from alibi_cli.evaluation.results_file import load_results
from alibi_cli.evaluation.statistics import per_document
from alibi_cli.settings.presets import presets_folder
from benchmarks.healing.arms import LENGTHS, MODELS, Arm, arms

HERE = Path(__file__).parent
WORK = Path("build/healing")
SEGMENTS, TARGETS = 64, 256  # fixed-target: the last 256 tokens of 64 segments of the longest length
PASSKEY = ("--lengths", "512,2048", "--samples", "5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="*", help="names of arms, with * and ?")
    parser.add_argument("--make", action="store_true", help="make the checkpoints, evaluate none")
    parser.add_argument("--list", action="store_true", help="what is done and what is missing")
    args = parser.parse_args()
    wanted = [arm for arm in arms() if fnmatch(arm.name, args.only)]
    if args.list:
        for arm in wanted:
            print("done   " if record_of(arm.name).exists() else "missing", arm.name)
        return
    WORK.mkdir(parents=True, exist_ok=True)
    done = {arm.name: threading.Event() for arm in arms()}
    for arm in arms():
        if record_of(arm.name).exists() or checkpoint_of(arm).is_dir() or arm not in wanted:
            done[arm.name].set()
    with ThreadPoolExecutor(args.workers) as pool:
        for future in [pool.submit(_finish, arm, done, args.make) for arm in wanted]:
            future.result()


def record_of(name: str) -> Path:
    return HERE / "records" / f"{name}.json"


def checkpoint_of(arm: Arm) -> Path:
    stock = not arm.command and arm.rope is None
    return presets_folder() / MODELS[arm.model] if stock else WORK / arm.name


def _finish(arm: Arm, done: dict[str, threading.Event], make_only: bool) -> None:
    """Makes the checkpoint, evaluates it, writes the record."""
    if record_of(arm.name).exists():
        done[arm.name].set()
        return
    started = time.monotonic()
    made: dict[str, Any] | None = None
    stock = arm.needs in (None, f"{arm.model}-original")
    start = MODELS[arm.model] if stock else str(WORK / str(arm.needs))
    if arm.needs is not None:
        done[arm.needs].wait()
    output = checkpoint_of(arm)
    words = [word.format(start=start, output=output) for word in arm.command]
    if arm.rope is not None:
        _stretch(arm, output)
    elif words:
        if output.is_dir() and (WORK / f"{arm.name}.made.json").is_file():
            made = json.loads((WORK / f"{arm.name}.made.json").read_text())
        else:
            made = _alibi(arm, *words, *(["--resume"] if words[0] == "train" else []), "--force")
            (WORK / f"{arm.name}.made.json").write_text(json.dumps(made))
    done[arm.name].set()
    if make_only:
        print(f"{time.strftime('%H:%M:%S')} made {arm.name}: {time.monotonic() - started:.0f} s", flush=True)
        return
    results = WORK / f"{arm.name}.eval.json"
    protocol = ("--targets", str(TARGETS), "--max-segments", str(SEGMENTS), "--output", str(results), "--resume")
    lengths = ",".join(
        str(length) for length in sorted({*arm.lengths, LENGTHS[-1]})
    )  # the longest decides what is scored
    _alibi(arm, "eval", str(output), "--lengths", lengths, *protocol, code=None)
    passkey = _alibi(arm, "task", "passkey", str(output), *PASSKEY, code=None) if len(arm.lengths) > 1 else {}
    _write_record(arm, words, made, results, passkey, time.monotonic() - started)
    print(f"{time.strftime('%H:%M:%S')} {arm.name}: {time.monotonic() - started:.0f} s", flush=True)


def _stretch(arm: Arm, output: Path) -> None:
    """The stock Llama with another rotation in its config: baselines that need no training."""
    assert arm.rope is not None
    kind, factor = arm.rope
    shutil.copytree(presets_folder() / MODELS[arm.model], output, dirs_exist_ok=True)
    config = json.loads((output / "config.json").read_text())
    length = config["max_position_embeddings"]
    parameters = {**config.get("rope_parameters", {}), "rope_type": kind, "factor": factor}
    if kind == "yarn":
        parameters["original_max_position_embeddings"] = length
    config["rope_parameters"] = parameters
    config["max_position_embeddings"] = int(length * factor)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _alibi(arm: Arm, *words: str, code: int | None = 0) -> Any:
    """Runs `alibi WORDS --json` with one thread; the JSON. stderr and the command go to the arm's log."""
    command = [sys.executable, "-m", "alibi_cli", *words, "--json"]
    with (WORK / f"{arm.name}.log").open("a") as log:
        log.write(f"$ {shlex.join(['alibi', *command[3:]])}\n")
        log.flush()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    if code not in (None, result.returncode) or not result.stdout.startswith("{"):
        raise RuntimeError(f"{arm.name}: exit {result.returncode}; see {WORK / arm.name}.log")
    return json.loads(result.stdout)


def _write_record(
    arm: Arm, words: list[str], made: dict[str, Any] | None, results: Path, passkey: dict[str, Any], seconds: float
) -> None:
    """The sums per document are enough for every mean, paired difference and interval of the report."""
    evaluated = load_results(results)
    scored = evaluated.record
    rows = []
    for row in evaluated.rows:
        if row.length not in arm.lengths:
            continue
        entry: dict[str, Any] = {"length": row.length, "arm": row.arm, "status": row.status, "nll": row.nll}
        if row.key in scored:
            sums, counts = per_document(scored[row.key].nll, scored[row.key].document)
            entry |= {
                "scored": row.scored_set_sha256,
                "sums": [round(v, 6) for v in sums],
                "counts": counts.astype(int).tolist(),
            }
        rows.append(entry)
    training = (made or {}).get("losses") or (made or {}).get("calibration")
    content = {
        "arm": arm.name,
        "model": arm.model,
        "command": shlex.join(["alibi", *words]) if words else None,
        "rope": arm.rope,
        "tokens": arm.tokens,
        "seed": arm.seed,
        "seconds_of_command": (made or {}).get("seconds"),
        "seconds": round(seconds, 1),
        "training": training,
        "text": evaluated.text.model_dump(),
        "protocol": evaluated.protocol.model_dump(),
        "versions": evaluated.versions,
        "rows": rows,
        "passkey": [
            {key: row[key] for key in ("length", "depth", "accuracy", "ci95", "samples")}
            for row in passkey.get("rows", [])
            if row["depth"] is None and row["status"] == "ok"
        ],
    }
    record_of(arm.name).parent.mkdir(exist_ok=True)
    record_of(arm.name).write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
