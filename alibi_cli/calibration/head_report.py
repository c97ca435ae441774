"""The verb `inspect_heads`: what each head of one model does."""

from typing import Any, NamedTuple

from pydantic import BaseModel

from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.calibration.windows import make_windows
from alibi_cli.errors import UsageError
from alibi_cli.models.language_model import describe, evaluating
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.models.plugins import load_plugins
from alibi_cli.progress import Watch, notes, steps
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.looking import HeadsSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import load_text

DEFAULT_LONGEST = 1024  # in eager attention, time and memory of a window grow with its square
WEIGHTS_PER_BATCH = 1 << 24  # of one layer at a time: 64 MB in float32
Map = list[list[float]]  # one list a layer, one figure a head
# Field of the report: title of the map, what the heads with the smallest and the largest figures are, whether its colours are logarithmic.
MAPS: dict[str, tuple[str, str, str, bool]] = {
    "mean_distance": ("distance, tokens", "most local", "farthest", True),
    "mean_distance_without_sinks": ("distance, no sinks", "most local", "farthest", True),
    "sink_weight": ("weight on the sinks", "least", "most", False),
    "first_token_weight": ("weight on first token", "least", "most", False),
    "entropy_nats": ("entropy, nats", "sharpest", "most diffuse", False),
    "slopes": ("slope m", "gentlest", "steepest", True),
}


class HeadMap(NamedTuple):
    """A figure of every head, and how to show it; see `MAPS`."""

    title: str
    values: list[list[float | None]]
    lowest: str
    highest: str
    logarithmic: bool


class HeadReport(BaseModel):
    """The JSON of `alibi inspect heads`. tokens: that were read, in windows of `window`. text: its fingerprint. slopes: null for an
    original.

    mean_distance: tokens that a head looks back; mean_distance_without_sinks: over keys that are no sinks, null for a head that sees no
    other. entropy_nats: of the attention weights. first_token_weight, sink_weight: weight on the first token of a window, and on its first
    `sinks` tokens."""

    model: str
    converted: bool
    trained_length: int | None
    window: int
    tokens: int
    text: dict[str, Any]
    slopes: Map | None
    sinks: int
    mean_distance: Map
    mean_distance_without_sinks: list[list[float | None]]
    entropy_nats: Map
    first_token_weight: Map
    sink_weight: Map

    def maps(self) -> list[HeadMap]:
        """Those that say something: without sinks there is nothing to tell apart, and the first token is one of the sinks."""
        left_out = {"first_token_weight"} if self.sinks else {"mean_distance_without_sinks", "sink_weight"}
        return [
            HeadMap(title, getattr(self, key), lowest, highest, logarithmic)
            for key, (title, lowest, highest, logarithmic) in MAPS.items()
            if key not in left_out and getattr(self, key) is not None
        ]


@takes_settings(HeadsSettings)
def inspect_heads(model: Any, *, progress: Watch | None = None, **settings: Any) -> HeadReport:
    """How far each head of a model looks back, how widely, and how much of its attention rests on attention sinks.

    Args:
        model: a folder, a Hub name, a model in memory, or a pair of one and its tokenizer.
        progress: is called with each `Progress`.
        settings: see `HeadsSettings`.

    Raises:
        AlibiError: no language model, too little text, a window of nothing but sinks, or attention that does not show its weights.
    """
    return run_inspect_heads(settings_of(HeadsSettings, {"model": model, **settings}), progress)


def run_inspect_heads(settings: HeadsSettings, progress: Watch | None = None) -> HeadReport:
    """`inspect_heads`, by settings."""
    load_plugins(settings.plugin, notes(progress))
    text = load_text(files=settings.text)
    info = describe(settings.model, settings.revision)
    trained = info.original_length
    window = settings.length or min(_known(trained, info.name), DEFAULT_LONGEST)
    if info.hard_limit is not None and window > info.hard_limit:
        raise UsageError(f"{info.name} has positions for {info.hard_limit} tokens, not {window}.")
    if settings.sinks >= window:
        raise UsageError(f"{settings.sinks} sinks leave nothing of a window of {window} tokens.")
    windows = make_windows(text, load_tokenizer(info), window, settings.tokens, info.masked)
    model, update = load_model(info), steps(progress)
    weights = model.config.num_attention_heads * window**2
    size = max(1, min(TOKENS_PER_BATCH // window, WEIGHTS_PER_BATCH // weights))
    batches = list(windows.input_ids.to(model.device).split(size))

    def on_batch(done: int) -> None:
        update("Looking at the heads", done, len(batches))

    on_batch(0)
    with evaluating(model):
        statistics = observe_heads(model, batches, on_batch, settings.sinks)
    slopes = [module.alibi_slopes for module in attention_modules(model).values()] if info.converted else None
    return HeadReport(
        model=info.name,
        converted=info.converted,
        trained_length=trained,
        window=window,
        tokens=windows.n_tokens,
        text=windows.text,
        slopes=slopes,
        **statistics.as_json(),
    )


def _known(trained_length: Any, name: str) -> int:
    if not isinstance(trained_length, int):
        raise UsageError(f"{name} does not say at which length it was trained.", hint="Give `length`.")
    return trained_length
