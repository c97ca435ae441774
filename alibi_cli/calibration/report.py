"""What `alibi inspect heads` shows of one model."""

from collections.abc import Callable
from typing import Any

from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.calibration.windows import make_windows
from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.evaluation.models import describe, load_model, load_tokenizer, original_length
from alibi_cli.evaluation.text import Text

DEFAULT_SINKS = 4  # as many as StreamingLLM keeps
DEFAULT_LONGEST = 1024  # in eager attention, time and memory of a window grow with its square
WEIGHTS_PER_BATCH = 1 << 24  # of one layer at a time: 64 MB in float32


def head_report(
    name: str,
    text: Text,
    n_tokens: int,
    length: int | None = None,
    revision: str | None = None,
    update: Callable[[str, float, float], None] = lambda *_: None,
    sinks: int = DEFAULT_SINKS,
) -> dict[str, Any]:
    """{"model", "converted", "trained_length", "window", "tokens", "text", "slopes", and the maps of `HeadStatistics`}.

    A map is a list per layer of one figure per head; slopes are null for an original. A window has `length` tokens, or the trained length
    but at most `DEFAULT_LONGEST`.

    Raises:
        AlibiError: no language model, too little text, a window of nothing but sinks, or attention that does not show its weights.
    """
    info = describe(name, revision)
    trained = original_length(info)
    window = length or min(_known(trained, name), DEFAULT_LONGEST)
    if info.hard_limit is not None and window > info.hard_limit:
        raise UsageError(f"{name} has positions for {info.hard_limit} tokens, not {window}.")
    if sinks >= window:
        raise UsageError(f"{sinks} sinks leave nothing of a window of {window} tokens.")
    windows = make_windows(text, load_tokenizer(info), window, n_tokens, info.masked)
    model = load_model(info)
    weights = model.config.num_attention_heads * window**2
    size = max(1, min(TOKENS_PER_BATCH // window, WEIGHTS_PER_BATCH // weights))
    batches = list(windows.input_ids.to(model.device).split(size))

    def on_batch(done: int) -> None:
        update("Looking at the heads", done, len(batches))

    on_batch(0)
    statistics = observe_heads(model, batches, on_batch, sinks)
    return {
        "model": name,
        "converted": info.converted,
        "trained_length": trained,
        "window": window,
        "tokens": windows.n_tokens,
        "text": windows.text,
        "slopes": [module.alibi_slopes for module in attention_modules(model).values()] if info.converted else None,
        **statistics.as_json(),
    }


def _known(trained_length: Any, name: str) -> int:
    if not isinstance(trained_length, int):
        raise UsageError(
            f"{name} does not say at which length it was trained.", hint="Give `length`."
        )
    return trained_length
