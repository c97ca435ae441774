"""The verb `inspect_slopes`: the slopes of a checkpoint, or those that it would get."""

from dataclasses import dataclass
from typing import Any

from alibi_cli.errors import AlibiError, UsageError
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.looking import SlopesSettings
from alibi_cli.settings.presets import settings_of
from alibi_cli.slopes import PRESS_MAX_BIAS, get_slopes, is_slope, layers_of

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")  # the keys of config.json, by family


@dataclass(frozen=True)  # and no pydantic model: it is shown at once
class SlopesReport:
    """The JSON of `alibi inspect slopes`. scheme: "press", or "checkpoint" for a converted one's own. slopes: one for each head, or a list
    of them for each layer."""

    n_heads: int
    scheme: str
    max_bias: float | None
    slopes: list[Any]


@takes_settings(SlopesSettings)
def inspect_slopes(model: str | None = None, **settings: Any) -> SlopesReport:
    """The slopes of a converted checkpoint, or Press's for a number of heads.

    Args:
        model: a folder, or the name of a Hub repository.
        settings: see `SlopesSettings`.

    Raises:
        AlibiError: no such model, or one whose config does not say how many heads it has.
    """
    return run_inspect_slopes(settings_of(SlopesSettings, {"model": model, **settings}))


def run_inspect_slopes(settings: SlopesSettings) -> SlopesReport:
    """`inspect_slopes`, by settings."""
    model, max_bias = settings.model, PRESS_MAX_BIAS if settings.max_bias is None else settings.max_bias
    if model is None:
        return _press(settings.heads or 8, max_bias)
    from alibi_cli.files.strict_json import read_json
    from alibi_cli.models.plausible import check_plausible
    from alibi_cli.models.source import locate

    config = read_json(locate(model, read_weights=False)[0] / "config.json")
    check_plausible(config, model)
    found = next((config[key] for key in HEADS if type(config.get(key)) is int), 0)
    if found < 1:
        raise UsageError(f"The config.json of {model} does not say how many heads it has.")
    if (own := config.get("alibi_slopes")) is None:
        return _press(found, max_bias)
    if not all(isinstance(each, list) and len(each) == found and all(map(is_slope, each)) for each in layers_of(own)):
        raise AlibiError(
            f"The alibi_slopes in the config.json of {model} are not {found} numbers that are positive in float32."
        )
    if settings.max_bias is not None and max_bias != PRESS_MAX_BIAS:
        raise UsageError(f"{model} has slopes of its own; `max_bias` does not apply.")
    return SlopesReport(n_heads=found, scheme="checkpoint", max_bias=None, slopes=own)


def _press(heads: int, max_bias: float) -> SlopesReport:
    return SlopesReport(n_heads=heads, scheme="press", max_bias=max_bias, slopes=get_slopes(heads, max_bias))
