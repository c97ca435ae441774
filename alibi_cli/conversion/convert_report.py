"""What a conversion did, as it is printed by --json and kept in alibi.json."""

from typing import Any

from pydantic import BaseModel

from alibi_cli.conversion.verified import Verification
from alibi_cli.evaluation.suggestion import Suggestion


class Tensors(BaseModel):
    """copied: number of tensors whose bytes are unchanged; dropped, added, changed: names."""

    copied: int
    dropped: list[str]
    added: list[str]
    changed: list[str]


class ConvertReport(BaseModel):
    """The JSON of `alibi convert`. Sizes in bytes, times in seconds. verified is null if it was not asked for, calibration if the slopes
    were not calibrated. trained_length: tokens that the source's positions were made for.
    policy: the family, as version 0.1.0 had it; policy_name: "replace", "add" or a plug-in's. offsets, sinks, sink_distance: see
    `apply_alibi`.
    non_finite: kept tensors that hold a NaN or an Inf. better: settings that usually keep more of a pretrained model's quality, where
    Press's slopes took the place of its positions; empty if none are known, null if the question does not arise.
    suggestion: how to measure the result on this machine; null if that would take too long or too much memory."""

    output: str
    source: str
    source_revision: str | None
    source_commit: str | None
    base_model_type: str
    model_type: str
    policy: str
    policy_name: str
    mechanism: str
    slopes_scheme: str
    slopes: list[Any]
    offsets: list[Any] | None
    sinks: int
    sink_distance: int | None
    trained_length: int
    max_sequence_length: int
    tensors: Tensors
    non_finite: list[str]
    calibration: dict[str, Any] | None
    bytes_written: int
    seconds: float
    verified: Verification | None
    loads_with: str
    better: dict[str, str] | None = None
    suggestion: Suggestion | None = None


class SideFiles(BaseModel):
    """Names of files beside the weights. carried: byte for byte; edited: with changes; left_behind: not taken."""

    carried: list[str]
    edited: list[str]
    left_behind: list[str]


class PlannedCalibration(BaseModel):
    """tokens, in passes of one window: that are fed. lengths: of the windows. range: tokens within which an added bias is to
    change nothing; where positions are replaced, the trained length. offset: null is to be found. text: names. bytes: of memory."""

    method: str
    tokens: int
    passes: int
    lengths: list[int]
    range: int
    offset: int | None
    text: list[str]
    bytes: int


class PlanReport(BaseModel):
    """The JSON of `alibi inspect plan` and of `alibi convert --dry-run`; fields as in `ConvertReport`. null stands for what a calibration
    is going to find. output_occupied: the output exists and is not empty. n_tensors: in the source. calibration: null if the slopes are
    not calibrated."""

    source: str
    source_commit: str | None
    output: str
    base_model_type: str
    model_type: str
    policy: str
    policy_name: str
    mechanism: str
    slopes_scheme: str
    slopes: list[Any] | None
    offsets: list[Any] | None
    sinks: int | None
    sink_distance: int | None
    trained_length: int
    max_sequence_length: int
    tensors: Tensors
    side_files: SideFiles
    bytes_to_write: int
    free_bytes: int
    loads_with: str
    output_occupied: bool
    n_tensors: int
    calibration: PlannedCalibration | None = None
