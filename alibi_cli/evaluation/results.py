"""What an evaluation found: rows, paired differences, and the NLL of every scored token."""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, PrivateAttr

from alibi_cli.evaluation.arm_names import FULL
from alibi_cli.evaluation.statistics import FEW_DOCUMENTS, Scored, by_context, mean_interval, per_document

SCHEMA_VERSION = 1


class NonFinite(BaseModel):
    """The first scored token whose NLL is NaN or Inf: in which document, at which of its tokens, which one."""

    document: str
    position: int
    token: int
    text: str


class RowKey(NamedTuple):
    """Which row it is."""

    model: str
    arm: str
    length: int


class Row(BaseModel):
    """One model at one length.

    arm: "full", or the name of an arm (evaluation/arms.py). arm_settings: what it does, {"window", "sinks"} or {"factor"}. status: "ok",
    "out_of_range" (beyond its position embeddings), "out_of_memory" or "non_finite". nll: mean nats per scored token; ci95: its interval
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
    def key(self) -> "RowKey":
        return RowKey(self.model, self.arm, self.length)


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
    def key(self) -> tuple[RowKey, RowKey]:
        return RowKey(self.model, FULL, self.length), RowKey(self.baseline, self.baseline_arm, self.baseline_length)


class ProtocolFacts(BaseModel):
    """Which tokens were scored. targets, stride: see evaluation/protocols.py. longest: length that decides which segments there are.
    masked: the models fill in masked tokens. max_segments: as it was asked for. segments_seed: with which these were drawn; null if all
    were scored, or, in files of 0.1.0, the first ones of each document. device, dtype: as they were asked for. seed: of the intervals."""

    model_config = ConfigDict(extra="allow")
    name: str
    targets: int | None
    stride: int | None
    longest: int | None
    masked: bool
    max_segments: int | None = None
    segments_seed: int | None = None
    device: str
    dtype: str
    seed: int


class TextFacts(BaseModel):
    """Which text was scored: its name, the sha256 of its documents' names and texts, how many there are, and bytes. normalised: what was
    changed in files when they were read."""

    name: str
    sha256: str
    documents: int
    bytes: int
    normalised: list[str] = []


class ModelFacts(BaseModel):
    """What was scored. digest: sha256 of its files; tokens_sha256: of the text as its tokenizer cuts it. engine: what computed a
    GGUF file. segments, segments_available: with `max_segments`, how many segments were drawn, and out of how many."""

    model_config = ConfigDict(extra="allow")
    name: str
    model_type: str
    commit: str | None
    digest: str
    tokenizer_sha256: str
    dtype: str
    attention: str
    converted: bool
    trained_length: int | None
    special_tokens: list[list[int]]
    tokens_sha256: str
    engine: str | None = None
    segments: int | None = None
    segments_available: int | None = None


class Results(BaseModel):
    """What `evaluate` returns, and the JSON of `alibi eval`. protocol, text and models say what was scored; two files are comparable
    exactly if these agree. `record` holds the NLL of every scored token, from which every figure is computed."""

    schema_version: int = SCHEMA_VERSION
    command: str
    versions: dict[str, str]
    protocol: ProtocolFacts
    text: TextFacts
    models: list[ModelFacts]
    rows: list[Row] = []
    contrasts: list[Contrast] = []
    _record: dict[RowKey, Scored] = PrivateAttr(default_factory=dict)
    _document_names: list[str] = PrivateAttr(default_factory=list)

    @property
    def record(self) -> dict[RowKey, Scored]:
        """Of every row whose status is "ok"."""
        return self._record

    @property
    def document_names(self) -> list[str]:
        """Of the text, in the order in which the record counts its documents; empty if a file of 0.1.0 was loaded."""
        return self._document_names

    @document_names.setter
    def document_names(self, names: list[str]) -> None:
        self._document_names = names

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame

        return DataFrame([row.model_dump(exclude={"sha256"}) for row in self.rows])

    def contrasts_frame(self) -> Any:
        """The paired differences as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame

        return DataFrame([contrast.model_dump() for contrast in self.contrasts])

    def to_text(self, form: Literal["markdown", "latex", "csv"]) -> str:
        """The tables for a document: Markdown with a row for each length, LaTeX (booktabs) with a column for each length, or the rows alone
        as CSV with full names and figures."""
        from alibi_cli.evaluation.table_formats import written

        return written([self], form)

    def plot(self, path: str | Path | None = None) -> Any:
        """Perplexity by length and NLL by position, as a matplotlib figure; written to `path` if it is given.

        Raises:
            AlibiError: nothing was scored, or the file cannot be written.
        """
        from alibi_cli.plots.results_plot import draw

        return draw(self, by_context, None if path is None else Path(path))

    def save(self, path: str | Path) -> None:
        """Writes `path`, which ends in .json, and beside it the record.

        Raises:
            AlibiError: it ends otherwise, or a file cannot be written.
        """
        from alibi_cli.evaluation.results_file import save

        save(Path(path), self)

    def _repr_html_(self) -> str:
        from alibi_cli.evaluation.tables import contrasts_table, results_table

        return results_table(self).html() + (contrasts_table(self).html() if self.contrasts else "")

    @property
    def few_documents(self) -> int | None:
        """The number of documents if it is too small for an interval to be trusted."""
        counts = [len(per_document(scored.nll, scored.document)[0]) for scored in self.record.values()]
        return min(counts) if counts and min(counts) < FEW_DOCUMENTS else None


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
