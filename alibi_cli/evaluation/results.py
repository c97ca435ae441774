"""The results file: its schema, and writing it so that an interrupted run loses nothing.

`results.json` is rewritten whole, by way of a temporary name, after every row. Beside it lies `results.nll.safetensors` with what every
figure is computed from: float32 NLLs and where they were read. `--resume` trusts a row only if both files have it, and if the row's
digest over its figures and its record is still right.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alibi_cli.checkpoint.partial import new_file
from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.evaluation.arms import FULL, TRUNCATED
from alibi_cli.evaluation.statistics import FEW_DOCUMENTS, Scored, mean_interval, per_document

SCHEMA_VERSION = 1
FIELDS = ("nll", "document", "position", "context")
OLD_NAMES = {"crop": TRUNCATED}  # arms as files of 0.1.0 call them


class NonFinite(BaseModel):
    """The first scored token whose NLL is NaN or Inf: in which document, at which of its tokens, which one."""

    document: str
    position: int
    token: int
    text: str


class Row(BaseModel):
    """One model at one length.

    arm: "full", or the name of an arm (evaluation/arms.py). arm_settings: what it does, {"window", "sinks"} or {"factor"}. status: "ok",
    "out_of_range" (beyond a table of positions), "out_of_memory" or "non_finite". nll: mean nats per scored token; ci95: its interval
    over documents. perplexity: exp(nll). bits_per_byte: over the bytes of the scored tokens. scored_set_sha256: of which tokens were
    scored (document and position), equal for rows that can be compared. fed_length: tokens actually fed. seconds: of scoring.
    tokens_per_second: fed tokens. peak_bytes: of the row on a GPU, of the whole process so far on a CPU. sha256: over everything but
    times and peak_bytes, and over the row's record.
    """

    model: str
    arm: str = FULL
    arm_settings: dict[str, float] | None = None
    length: int
    status: str
    fed_length: int
    nll: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens_scored: int = 0
    documents_scored: int = 0
    scored_set_sha256: str | None = None
    ci95: tuple[float, float] | None = None
    perplexity_ci95: tuple[float, float] | None = None
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    peak_bytes: int = 0
    first_non_finite: NonFinite | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        return f"{self.model}|{self.arm}|{self.length}"


class Contrast(BaseModel):
    """A paired difference. delta_nll: (model at length) - (baseline at baseline_length), nats per token, on the same tokens; positive is
    worse. perplexity_ratio: exp(delta_nll). verdict: read from ci95."""

    model: str
    baseline: str
    length: int
    baseline_length: int
    baseline_arm: str = FULL
    delta_nll: float
    perplexity_ratio: float
    ci95: tuple[float, float] | None
    verdict: str

    @property
    def key(self) -> str:
        return f"{self.model}|full|{self.length}|{self.baseline}|{self.baseline_arm}|{self.baseline_length}"


class Results(BaseModel):
    """The JSON of `alibi eval`. protocol, text and models say what was scored; two files are comparable exactly if these agree."""

    schema_version: int = SCHEMA_VERSION
    command: str
    versions: dict[str, str]
    protocol: dict[str, Any]
    text: dict[str, Any]
    models: list[dict[str, Any]]
    rows: list[Row] = []
    contrasts: list[Contrast] = []


def ok_row(
    model: str, arm: str, length: int, fed_length: int, scored: Scored, seconds: float, fed_tokens: int, peak_bytes: int
) -> Row:
    row = Row(
        model=model, arm=arm, length=length, status="ok", fed_length=fed_length, seconds=seconds, peak_bytes=peak_bytes
    )
    row.tokens_scored, row.documents_scored = len(scored.nll), len(np.unique(scored.document))
    row.scored_set_sha256 = hashlib.sha256(scored.document.tobytes() + scored.position.tobytes()).hexdigest()
    row.tokens_per_second = fed_tokens / seconds if seconds else 0.0
    if not np.isfinite(scored.nll).all():
        row.status = "non_finite"
        return row
    row.nll, row.perplexity, row.bits_per_byte = scored.mean, math.exp(min(scored.mean, 700)), scored.bits_per_byte
    row.ci95 = mean_interval(scored)
    row.perplexity_ci95 = (
        None if row.ci95 is None else (math.exp(min(row.ci95[0], 700)), math.exp(min(row.ci95[1], 700)))
    )
    return row


def digest(row: Row, scored: Scored | None) -> str:
    """sha256 of a row and of what its figures were computed from; times, which no run repeats, are not in it."""
    left_out = {"seconds", "tokens_per_second", "peak_bytes", "sha256"}
    if row.arm_settings is None:  # as in files that were written before there was this key
        left_out.add("arm_settings")
    figures = row.model_dump(mode="json", exclude=left_out)
    found = hashlib.sha256(json.dumps(figures, sort_keys=True).encode())
    if scored is not None:
        for name in FIELDS:
            found.update(np.ascontiguousarray(getattr(scored, name)).tobytes())
        found.update(str(scored.n_bytes).encode())
    return found.hexdigest()


def nll_path(path: Path) -> Path:
    return path.with_suffix(".nll.safetensors")


def save(path: Path, results: Results, record: dict[str, Scored]) -> None:
    """Writes both files, the record first: a row that the results name is always in the record."""
    tensors = {f"{key}|{name}": getattr(scored, name) for key, scored in record.items() for name in FIELDS}
    metadata = {"n_bytes": json.dumps({key: scored.n_bytes for key, scored in record.items()})}
    try:
        with new_file(nll_path(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        with new_file(path) as temporary:
            temporary.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
            # safetensors makes files that only their owner can read
            nll_path(path).chmod(temporary.stat().st_mode & 0o777)
    except (OSError, SafetensorError) as error:
        raise AlibiError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.") from None


def load(path: Path) -> tuple[Results, dict[str, Scored]]:
    """Both files of an earlier run; rows whose record is missing are left out.

    Raises:
        AlibiError: not a results file of this version, or one whose figures or record were changed since.
    """
    from safetensors import safe_open

    try:
        results = Results.model_validate_json(path.read_text(encoding="utf-8"))
        if not all(isinstance(model.get(key), str) for model in results.models for key in ("name", "tokens_sha256")):
            raise ValueError("it has a model without a name")
        if strangers := {row.model for row in results.rows} - {model["name"] for model in results.models}:
            raise ValueError(f"it has a row of {min(strangers)}, which is not among its models")
        record: dict[str, Scored] = {}
        if nll_path(path).is_file():
            tensors = load_file(nll_path(path))
            with safe_open(nll_path(path), "np") as file:
                n_bytes = json.loads(file.metadata()["n_bytes"])
            record = {key: _scored(tensors, key, n) for key, n in n_bytes.items()}
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
            f"{path} and the record beside it are not results that can be resumed: {first_line(error)}",
            hint="Choose another `output`.",
        ) from None
    results.rows = [row for row in results.rows if row.status != "ok" or row.key in record]
    for row in results.rows:
        if row.sha256 != digest(row, record[row.key] if row.status == "ok" else None):
            raise UsageError(
                f"{path}: the row of {row.model} at {row.length} ({row.arm}), or its record, was changed after it was computed.",
                hint="Delete the file, or choose another `output`.",
            )
        if row.arm in OLD_NAMES:
            before, row.arm = row.key, OLD_NAMES[row.arm]
            if before in record:
                record[row.key] = record.pop(before)
            row.sha256 = digest(row, record.get(row.key))
    results.contrasts = []
    return results, record


def _scored(tensors: dict[str, np.ndarray], key: str, n_bytes: int | None) -> Scored:
    nll, document, position, context = (tensors[f"{key}|{name}"] for name in FIELDS)
    return Scored(nll, document, position, context, n_bytes)


def check_same_run(old: Results, new: Results, path: Path) -> None:
    """Raises AlibiError naming the first difference between an earlier run and this one that makes their rows incomparable."""
    for part in ("schema_version", "versions", "protocol", "text"):
        before, now = getattr(old, part), getattr(new, part)
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
    known = {str(model.get("name")): model for model in old.models}
    for model in new.models:
        if model["name"] in known and known[model["name"]] != model:
            before = known[model["name"]]
            key = next(k for k in {**model, **before} if k not in before or k not in model or before[k] != model[k])
            raise UsageError(
                f"{model['name']} has changed since {path} was made ({key}).",
                hint="Choose another `output`.",
            )


def few_documents(record: dict[str, Scored]) -> int | None:
    """The number of documents if it is too small for an interval to be trusted."""
    counts = [len(per_document(scored.nll, scored.document)[0]) for scored in record.values()]
    return min(counts) if counts and min(counts) < FEW_DOCUMENTS else None
