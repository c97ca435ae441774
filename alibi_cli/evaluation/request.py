"""What an evaluation was asked for: the models, the baseline among them, and the text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alibi_cli.errors import UsageError
from alibi_cli.evaluation.arms import split_arm
from alibi_cli.evaluation.jobs import Job, make_jobs
from alibi_cli.evaluation.processes import Processes
from alibi_cli.models.language_model import ModelInfo, describe
from alibi_cli.models.loading import with_tokenizer
from alibi_cli.settings.measuring import EvaluateSettings, OnModels
from alibi_cli.settings.presets import settings_of
from alibi_cli.text.documents import Text, as_text, load_text


def asked(
    models: Any, text: Any, preset: str | None, settings: dict[str, Any], dry: bool = False
) -> tuple[EvaluateSettings, Text | None]:
    """The settings of a library user, and the text if it is not one that they name. dry: of a dry run."""
    given: dict[str, Any] = {"models": as_models(models), **settings}
    paths = [text] if isinstance(text, Path) else text
    if isinstance(paths, (list, tuple)) and all(isinstance(part, Path) for part in paths):
        given["text"], text = tuple(paths), None
    chosen = settings_of(EvaluateSettings, given, preset, dry)
    return chosen, None if text is None else as_text(text)


def as_models(models: Any) -> tuple[Any, ...]:
    """One or several models -> several."""
    pair = isinstance(models, tuple) and len(models) == 2 and isinstance(models[0], torch.nn.Module)
    return (models,) if pair or isinstance(models, (str, Path, torch.nn.Module)) else tuple(models)


def text_of(settings: EvaluateSettings) -> Text:
    """The text that the settings name."""
    return load_text(
        settings.dataset,
        settings.text,
        split_on=settings.split_on,
        column=settings.text_column,
        max_documents=settings.max_documents,
    )


def jobs_of(settings: EvaluateSettings, text: Text, processes: Processes) -> tuple[list[Job], str | None, str | None]:
    """What there is to do, the baseline first; the baseline's name, and its arm if one is meant."""
    infos, baseline, against = _described(settings)
    if len({info.masked for info in infos}) > 1:
        raise UsageError(
            "Models that fill in masked tokens and models that predict the next one cannot be scored together."
        )
    return make_jobs(infos, settings, (baseline, against), text, processes), baseline, against


def _described(settings: EvaluateSettings) -> tuple[list[ModelInfo], str | None, str | None]:
    """The models, the baseline first, each once; the baseline's name, and its arm if one is meant."""
    baseline, against = settings.baseline, None
    if isinstance(baseline, str):
        baseline, against = split_arm(baseline)
    found = described(settings, [*([] if baseline is None else [baseline]), *settings.models])
    return found, None if baseline is None else found[0].name, against


def described(settings: OnModels, models: Sequence[Any]) -> list[ModelInfo]:
    """Each model once, with the tokenizer that it is read with.

    Raises:
        AlibiError: no such model, or two of one name.
    """
    infos: dict[str, ModelInfo] = {}
    for model in models:
        info = describe(model, settings.revision, settings.trust_remote_code)
        info = with_tokenizer(info, settings.tokenizer, settings.trust_remote_code)
        known = infos.setdefault(info.name, info)
        if known.loaded is not info.loaded:
            raise UsageError(f"Two models are called {info.name}.", "Set `_name_or_path` of the config of one of them.")
    return list(infos.values())
