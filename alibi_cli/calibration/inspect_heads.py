"""The verb `inspect_heads`: what each head of one model does."""

from typing import Any

from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.head_report import HeadReport
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.calibration.windows import make_windows
from alibi_cli.errors import UsageError
from alibi_cli.models.cost import cost_of
from alibi_cli.models.language_model import describe, evaluating
from alibi_cli.models.loading import load_model, load_tokenizer
from alibi_cli.models.pace import announce
from alibi_cli.models.plugins import load_plugins
from alibi_cli.progress import Watch, notes, steps
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.looking import HeadsSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import load_text, tell

DEFAULT_LONGEST = 1024  # in eager attention, time and memory of a window grow with its square
WEIGHTS_PER_BATCH = 1 << 24  # of one layer at a time: 64 MB in float32


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
    tell(text.normalised, notes(progress))
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

    cost = cost_of(info, str(model.device), "auto")
    operations = windows.input_ids.shape[0] * cost.operations(window, window)
    announce(
        operations, size * window, cost, model.device.type, model.dtype, notes(progress), "Fewer `tokens` take less."
    )

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
