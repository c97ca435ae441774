"""What the folders of measured models still tell: slopes, and the curves of calibration and training."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.results import ModelFacts
from alibi_cli.files.digests import digest_of_model
from alibi_cli.files.strict_json import read_json
from alibi_cli.progress import Update
from alibi_cli.slopes import is_slope, layers_of
from alibi_cli.training.train_report import RECORD


@dataclass(frozen=True)
class Curve:
    """(tokens, nats per token) in order."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Checkpoint:
    """name: as the results have it. slopes: one list a layer. missing: why there is nothing to show, where a folder was to be looked into.
    calibration, training: what it cost while it was learned."""

    name: str
    slopes: list[list[float]] = field(default_factory=list)
    calibration: list[Curve] = field(default_factory=list)
    training: list[Curve] = field(default_factory=list)
    missing: str = ""


def look_into(models: Iterable[ModelFacts], folders: Iterable[Path], update: Update) -> list[Checkpoint]:
    """Of measured models whose folder is still what was measured, and of folders that were named."""
    found: dict[Path, Checkpoint] = {}
    read: set[str] = set()  # a checkpoint may lie at several paths
    for folder in folders:
        found[folder.resolve()] = _read(str(folder), folder)
    for model in models:
        folder = Path(model.name)
        if model.commit is not None or not (folder / "config.json").is_file() or folder.resolve() in found:
            continue
        if model.digest in read:
            continue
        if not ((folder / "alibi.json").is_file() or (folder / RECORD).is_file()):
            continue  # an original tells nothing of this kind
        update(f"Comparing {model.name} with what was measured", 0, 0)
        if digest_of_model(folder) == model.digest:
            found[folder.resolve()] = _read(model.name, folder)
            read.add(model.digest)
        else:
            found[folder.resolve()] = Checkpoint(model.name, missing="its files have changed since it was measured")
    return list(found.values())


def _read(name: str, folder: Path) -> Checkpoint:
    try:
        config = read_json(folder / "config.json")
        records = [folder / file for file in ("alibi.json", RECORD) if (folder / file).is_file()]
        facts = read_json(records[0]) if records else {}
        slopes = layers_of(config.get("alibi_slopes") or [])
        if not all(isinstance(layer, list) and layer and all(map(is_slope, layer)) for layer in slopes):
            slopes = []
        return Checkpoint(name, slopes, _calibration(facts.get("calibration")), _training(facts.get("training")))
    except (AlibiError, TypeError, KeyError, ValueError, AttributeError) as error:
        return Checkpoint(name, missing=f"its files cannot be read ({error})")


def _calibration(record: dict[str, Any] | None) -> list[Curve]:
    curves = [("calibration text", "kl_curve"), ("held-out text", "kl_curve_held_out")]
    return _curves([(name, (record or {}).get(key) or []) for name, key in curves])


def _training(record: dict[str, Any] | None) -> list[Curve]:
    """A training and those before it, one after the other."""
    runs: list[dict[str, Any]] = []
    while record:
        runs.insert(0, record)
        record = record.get("before")
    before = 0
    points: dict[str, Any] = {"ce": [], "kd": []}
    for run in runs:
        for loss in run["losses"]:
            for name, held in points.items():
                if loss.get(name) is not None:
                    held.append((before + loss["tokens"], loss[name]))
        before += run["tokens"]
    return _curves([("cross-entropy", points["ce"]), ("divergence from the teacher", points["kd"])])


def training_curves(losses: Iterable[Any]) -> list[Curve]:
    """Of a training report that is no checkpoint's."""
    return _training({"losses": [loss.model_dump() for loss in losses], "tokens": 0})


def _curves(named: list[tuple[str, Any]]) -> list[Curve]:
    return [
        Curve(name, [(float(tokens), float(value)) for tokens, value in points]) for name, points in named if points
    ]
