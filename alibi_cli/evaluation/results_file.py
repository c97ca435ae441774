"""The results file, written so that an interrupted run loses nothing.

`results.json` is rewritten whole, by way of a temporary name, after every row. Beside it lies `results.nll.safetensors` with what every
figure is computed from: float32 NLLs and where they were read. `resume` trusts a row only if both files have it, and if the row's
digest over its figures and its record is still right. docs/json.md says what is in the record and how to read it without this package.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.evaluation.arm_names import TRUNCATED
from alibi_cli.evaluation.results import SCHEMA_VERSION, Results, Row, RowKey
from alibi_cli.evaluation.statistics import Scored
from alibi_cli.files.atomic import new_file

FIELDS = ("nll", "document", "position", "context")
OFFSETS = ("byte_begin", "byte_end")  # not in files of 0.1.0, nor where a tokenizer does not tell them
OLD_NAMES = {"crop": TRUNCATED}  # arms as files of 0.1.0 call them


def digest(row: Row, scored: Scored | None) -> str:
    """sha256 of a row and of what its figures were computed from; times, which no run repeats, are not in it."""
    left_out = {"seconds", "tokens_per_second", "peak_bytes", "sha256"}
    if row.arm_settings is None:  # as in files that were written before there was this key
        left_out.add("arm_settings")
    figures = row.model_dump(mode="json", exclude=left_out)
    found = hashlib.sha256(json.dumps(figures, sort_keys=True).encode())
    if scored is not None:
        for array in _arrays(scored).values():
            found.update(array.tobytes())
        found.update(str(scored.n_bytes).encode())
    return found.hexdigest()


def _arrays(scored: Scored) -> dict[str, np.ndarray]:
    """A record by the names that its arrays have in the file. save_file writes the memory of an array, whatever its strides are."""
    found = {name: getattr(scored, name) for name in (*FIELDS, *OFFSETS)}
    return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}


def nll_path(path: Path) -> Path:
    return path.with_suffix(".nll.safetensors")


def save(path: Path, results: Results) -> None:
    """Writes both files, the record first: a row that the results name is always in the record.

    Raises:
        AlibiError: the name does not end in .json, or a file cannot be written.
    """
    if path.suffix != ".json":  # r-0.5 and r-0.6 would share r-0.nll.safetensors
        raise UsageError(f"{path} must end in .json.")
    named = {json.dumps(key, ensure_ascii=False): scored for key, scored in results.record.items()}
    tensors = {f"{key} {name}": array for key, scored in named.items() for name, array in _arrays(scored).items()}
    about = {"n_bytes": {key: scored.n_bytes for key, scored in named.items()}, "documents": results.document_names}
    metadata = {"record": json.dumps(about)}  # one key: safetensors writes several in any order
    try:
        with new_file(nll_path(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        with new_file(path) as temporary:
            temporary.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
            # safetensors makes files that only their owner can read
            nll_path(path).chmod(temporary.stat().st_mode & 0o777)
    except (OSError, SafetensorError) as error:
        raise AlibiError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.") from None


def load_results(path: str | Path, incomplete: bool = False) -> Results:
    """What `alibi eval --output` or `Results.save` wrote.

    incomplete: rows whose record is missing are left out, with what was compared with them, instead of being an error.

    Raises:
        UsageError: not a results file of this version or an earlier one, one whose figures or record were changed since, or one without its
            record.
    """
    from safetensors import safe_open

    path = Path(path)
    try:
        results = Results.model_validate_json(path.read_text(encoding="utf-8"))
        if results.schema_version > SCHEMA_VERSION:
            raise ValueError(f"a newer alibi-cli wrote them (schema version {results.schema_version})")
        if strangers := {row.model for row in results.rows} - {model.name for model in results.models}:
            raise ValueError(f"it has a row of {min(strangers)}, which is not among its models")
        record: dict[RowKey, Scored] = {}
        if nll_path(path).is_file():
            tensors = load_file(nll_path(path))
            with safe_open(nll_path(path), "numpy") as file:
                metadata = file.metadata()
            # Files of 0.1.0 have the first of the two alone, under its own name.
            about = (
                json.loads(metadata["record"]) if "record" in metadata else {"n_bytes": json.loads(metadata["n_bytes"])}
            )
            results.document_names += map(str, about.get("documents", []))
            record = {_key(key): _scored(tensors, key, n) for key, n in about["n_bytes"].items()}
    except (
        ValidationError,
        ValueError,
        SafetensorError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        RecursionError,
    ) as error:
        raise UsageError(
            f"{path} and the record beside it are not results that can be read: {first_line(error)}"
        ) from None
    without = [row.key for row in results.rows if row.status == "ok" and row.key not in record]
    if without and not incomplete:
        raise UsageError(
            f"{path} has figures of {len(without)} rows whose record is not in {nll_path(path)}.",
            "Keep both files together; a file that `output` named has its record beside it.",
        )
    results.rows = [row for row in results.rows if row.key not in without]
    present = {row.key for row in results.rows}
    results.contrasts = [each for each in results.contrasts if present.issuperset(each.key)]
    for row in results.rows:
        if row.sha256 != digest(row, record[row.key] if row.status == "ok" else None):
            raise UsageError(
                f"{path}: the row of {row.model} at {row.length} ({row.arm}), or its record, was changed after it was computed."
            )
        if row.arm in OLD_NAMES:
            before, row.arm = row.key, OLD_NAMES[row.arm]
            if before in record:
                record[row.key] = record.pop(before)
            row.sha256 = digest(row, record.get(row.key))
    for contrast in results.contrasts:
        contrast.baseline_arm = OLD_NAMES.get(contrast.baseline_arm, contrast.baseline_arm)
    results.record.update(record)
    return results


def _key(name: str) -> RowKey:
    """Of a record's tensors: a JSON list; files of 0.1.0 have model|arm|length."""
    model, arm, length = json.loads(name) if name.startswith("[") else name.rsplit("|", 2)
    return RowKey(str(model), str(arm), int(length))


def _scored(tensors: dict[str, np.ndarray], key: str, n_bytes: int | None) -> Scored:
    between = " " if key.startswith("[") else "|"
    nll, document, position, context = (tensors[f"{key}{between}{name}"] for name in FIELDS)
    offsets = (tensors.get(f"{key}{between}{name}") for name in OFFSETS)
    return Scored(nll, document, position, context, n_bytes, *offsets)


def check_same_run(old: Results, new: Results, path: Path) -> None:
    """Raises AlibiError naming the first difference between an earlier run and this one that makes their rows incomparable."""
    for part in ("schema_version", "versions", "protocol", "text"):
        before, now = (_plain(getattr(each, part)) for each in (old, new))
        if before != now:
            what = (
                next((f"{part}.{k}: {before.get(k)} -> {now.get(k)}" for k in now if before.get(k) != now.get(k)), part)
                if isinstance(now, dict)
                else part
            )
            raise UsageError(
                f"{path} was made differently ({what}); its rows cannot be resumed.",
                hint="Choose another `output`.",
            )
    known = {model.name: model.model_dump() for model in old.models}
    for model in new.models:
        before, now = known.get(model.name), model.model_dump()
        if before is not None and before != now:
            key = next(k for k in {**now, **before} if k not in before or k not in now or before[k] != now[k])
            raise UsageError(
                f"{model.name} has changed since {path} was made ({key}).", hint="Choose another `output`."
            )


def _plain(part: Any) -> Any:
    return part.model_dump() if isinstance(part, BaseModel) else part
