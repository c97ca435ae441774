"""What `alibi inspect heads` shows of one model."""

from collections.abc import Callable
from typing import Any

from alibi_cli.calibration.divergence import TOKENS_PER_BATCH
from alibi_cli.calibration.heads import observe_heads
from alibi_cli.calibration.twin import attention_modules
from alibi_cli.calibration.windows import make_windows
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.models import ModelInfo, describe, load_model, load_tokenizer, original_length
from alibi_cli.evaluation.text import Text


def head_report(
    name: str,
    text: Text,
    n_tokens: int,
    length: int | None = None,
    revision: str | None = None,
    update: Callable[[str, float, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """{"model", "converted", "window", "tokens", "text", "slopes", and the maps of `HeadStatistics`}.

    A map is a list per layer of one figure per head; slopes are null for an original.

    Raises:
        AlibiError: no language model, too little text, or attention that does not show its weights.
    """
    info = describe(name, revision)
    window = length or _trained_length(info)
    if info.hard_limit is not None and window > info.hard_limit:
        raise AlibiError(f"{name} has positions for {info.hard_limit} tokens, not {window}.", exit_code=EXIT_USAGE)
    windows = make_windows(text, load_tokenizer(info), window, n_tokens, info.masked)
    model = load_model(info)
    batches = list(windows.input_ids.to(model.device).split(max(1, TOKENS_PER_BATCH // window)))
    statistics = observe_heads(model, batches, lambda done: update("Looking at the heads", done, len(batches)))
    return {
        "model": name,
        "converted": info.converted,
        "window": window,
        "tokens": windows.n_tokens,
        "text": windows.text,
        "slopes": [module.alibi_slopes for module in attention_modules(model).values()] if info.converted else None,
        **statistics.as_json(),
    }


def _trained_length(info: ModelInfo) -> int:
    length = original_length(info)
    if not isinstance(length, int):
        raise AlibiError(
            f"{info.name} does not say at which length it was trained.", hint="Give --length.", exit_code=EXIT_USAGE
        )
    return length
