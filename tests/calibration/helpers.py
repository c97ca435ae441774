"""Small windows, and models that are ALiBi already."""

import torch
from transformers import PreTrainedModel

from alibi_cli.calibration.windows import CalibrationWindows, Parts
from alibi_cli.surgery.apply import apply_alibi
from tests.models import sample_tokens, tiny_model

FACTS: dict[str, str | int] = {"name": "random tokens"}


def random_windows(n: int, length: int, seed: int = 0) -> CalibrationWindows:
    input_ids = sample_tokens(n, length, seed)
    return CalibrationWindows(input_ids, torch.ones_like(input_ids, dtype=torch.bool), FACTS)


def random_parts(learned: int, length: int, chosen: int = 0) -> Parts:
    """Three disjoint parts; `chosen` windows to choose by and as many to report on, a quarter of the learned ones if not given."""
    others = chosen or max(1, learned // 4)
    return Parts(random_windows(learned, length), random_windows(others, length, 1), random_windows(others, length, 2))


def alibi_model(family: str, slopes: list[list[float]], dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A tiny model whose positions are ALiBi with these slopes."""
    model = tiny_model(family, dtype)
    apply_alibi(model, 64, slopes=slopes)
    return model
