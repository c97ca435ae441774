"""What there is to do for each model: its text in its own tokens, its arms, and so its rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation.arm_names import FULL, TRUNCATED
from alibi_cli.evaluation.arms import Arm, parse_arm, refusal
from alibi_cli.evaluation.processes import Processes
from alibi_cli.evaluation.protocols import Protocol, make_protocol
from alibi_cli.evaluation.results import ModelFacts, Row
from alibi_cli.evaluation.statistics import SEED, Scored
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.models.loading import load_tokenizer, resolved_dtype
from alibi_cli.settings.measuring import EvaluateSettings
from alibi_cli.text.documents import Text
from alibi_cli.text.segments import Drawn, draw
from alibi_cli.text.token_cache import tokenize_once
from alibi_cli.text.tokens import TokenizedDocument, enclosed, first_token, special_tokens, tokens_sha256


@dataclass
class Job:
    """One model with its text as its tokenizer cuts it. drawn: the segments that `documents` are; None if they are the whole text."""

    info: ModelInfo
    arms: list[Arm]
    documents: list[TokenizedDocument]
    protocol: Protocol
    prefix: list[int]
    suffix: list[int]
    mask_token: int | None
    dtype: str
    decode: Callable[[list[int]], str]
    drawn: Drawn | None = None
    # By arm and fed length: truncated rows are the model's own at the trained length.
    cache: dict[tuple[str, int], tuple[Row, Scored | None]] = field(default_factory=dict)

    @cached_property
    def facts(self) -> ModelFacts:
        """What was scored; for this, the weights are read."""
        info = self.info
        return ModelFacts(
            name=info.name,
            model_type=info.model_type,
            commit=info.commit,
            digest=info.digest,
            tokenizer_sha256=info.tokenizer_digest,
            dtype=self.dtype,
            attention=info.attention,
            engine=info.engine,
            converted=info.converted,
            trained_length=info.trained_length,
            special_tokens=[self.prefix, self.suffix if info.masked else []],
            tokens_sha256=tokens_sha256(self.documents),
            segments=None if self.drawn is None else self.drawn.count,
            segments_available=None if self.drawn is None else self.drawn.available,
        )


def make_jobs(
    infos: list[ModelInfo],
    settings: EvaluateSettings,
    baseline: tuple[str | None, str | None],
    text: Text,
    processes: Processes,
) -> list[Job]:
    """baseline: its name, and its arm if one is meant.

    Raises:
        AlibiError: an arm that a model cannot have, a tokenizer or a protocol that does not do.
    """
    if settings.arms and all(info.converted for info in infos):
        message = "`arms` adds rows of unconverted models, and all of these are converted."
        raise UsageError(message, hint="Name the original as `baseline`.")
    arms = [_arms_of(info, settings, *baseline) for info in infos]
    cut = [
        info.trained_length
        for info, own in zip(infos, arms, strict=True)
        if any(arm.kind == TRUNCATED and arm.applies(info, max(settings.lengths)) for arm in own)
    ]
    shortest = min((length for length in cut if length is not None), default=None)
    return [_prepare(info, own, shortest, settings, text, processes) for info, own in zip(infos, arms, strict=True)]


def _arms_of(info: ModelInfo, settings: EvaluateSettings, baseline: str | None, against: str | None) -> list[Arm]:
    """Those that were asked for, that of the baseline included; without any word, the truncated one, if it can have it.

    Raises:
        AlibiError: one that was asked for and that this model cannot have.
    """
    names = () if info.converted else settings.arms or ()
    if against is not None and info.name == baseline:
        names = (*names, against)
    asked = [parse_arm(name) for name in names]
    for arm in asked:
        if reason := arm.obstacle(info):
            raise refusal(arm.name, info.name, reason)
    return sorted({*asked, *([Arm(TRUNCATED)] if settings.arms is None else [])}, key=lambda arm: arm.order)


def _prepare(
    info: ModelInfo,
    arms: list[Arm],
    truncated: int | None,
    settings: EvaluateSettings,
    text: Text,
    processes: Processes,
) -> Job:
    tokenizer = load_tokenizer(info, settings.trust_remote_code)
    prefix, suffix = special_tokens(tokenizer)
    mask_token = tokenizer.mask_token_id if info.masked else None
    if info.masked and mask_token is None:
        raise AlibiError(
            f"The tokenizer of {info.name} has no mask token, which a masked language model is scored with."
        )
    protocol = make_protocol(
        settings.protocol,
        settings.lengths,
        settings.targets,
        settings.stride,
        0 if settings.protocol == "lm-eval" else len(prefix),
        len(suffix),
        info.masked,
        truncated,
    )
    longest, fixed = protocol.room(max(settings.lengths)), protocol.name == "fixed-target"
    documents, drawn = processes.from_first(lambda: tokenize_once(text, tokenizer)), None
    if settings.max_segments is not None:
        drawn = draw(documents, settings.max_segments, longest, fixed, SEED)
        documents = drawn.texts
    if protocol.name == "lm-eval":  # whose special tokens are scored, each once, but for the first one
        documents = [enclosed(document, [first_token(tokenizer), *prefix], suffix) for document in documents]
        prefix = suffix = []
    if not any(len(document.ids) for document in documents):
        raise AlibiError(f"The tokenizer of {info.name} makes no tokens of the text; are its files missing?")
    dtype = resolved_dtype(info, settings.device, settings.dtype)
    return Job(info, arms, documents, protocol, prefix, suffix, mask_token, dtype, tokenizer.decode, drawn)


@dataclass(frozen=True)
class Wanted:
    """A row to come. computed: the arm and the length that are run for it; a truncated row is the model's own at its trained length.
    possible: False beyond the last position embedding."""

    arm: str
    length: int
    computed: tuple[str, int]
    possible: bool


def rows_of(job: Job, lengths: tuple[int, ...]) -> Iterator[Wanted]:
    """Every row of a model: its arms stand beside it where they are not the model itself."""
    limit, trained = job.info.hard_limit, job.info.trained_length
    for length in lengths:
        for arm in (FULL, *(arm.name for arm in job.arms if arm.applies(job.info, length))):
            computed = (FULL, trained or length) if arm == TRUNCATED else (arm, length)
            yield Wanted(arm, length, computed, limit is None or computed[1] <= limit)
