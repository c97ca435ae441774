"""Does the file compute what the checkpoint computes? Compared before it has its name."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alibi_cli.engines.llama_cpp import Engine, engine_version, running
from alibi_cli.errors import AlibiError
from alibi_cli.exporting.architectures import Architecture
from alibi_cli.exporting.export_report import Verified
from alibi_cli.exporting.forward import log_probabilities
from alibi_cli.exporting.page import PAGE
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.models.loading import load_model
from alibi_cli.text.tokens import ids_of

TOKENS = 256
BY_NUMPY_BYTES = 64 << 20  # of a file that is recomputed with numpy where there is no engine
HINT = "Nothing has the final name. Please report this with the model's name."
# Nats by which a log-probability may differ. In float32 at most: two heads exchanged in a layer make 0.2 and more. Of narrower types, whose
# rounding llama.cpp applies to activations too, on average: that excludes gross errors only, and the same checkpoint as f32 the others.
EXACT = 5e-3
GELU_TABLE = 0.1  # at most, with llama.cpp's table of GELU in half precision on CPUs
MEAN = {"f16": 0.05, "bf16": 0.25, "q8_0": 0.5}


def verify(
    file: Path, info: ModelInfo, tokenizer: Any, architecture: Architecture, dtype: str, context_length: int
) -> Verified | None:
    """Compares ids of a page and log-probabilities of its first tokens with transformers, by llama.cpp if it is installed, and by numpy if
    not and the file is small. None if nothing can. context_length: that the file declares, beyond which llama.cpp's server takes nothing.

    Raises:
        AlibiError: they differ.
    """
    sample = sample_of(tokenizer, context_length)
    n = len(sample) - 1
    characters = None
    if (engine := engine_version()) is not None:
        with running(file, len(sample)) as server:
            check_ids(server, tokenizer, PAGE)
            characters, by = len(PAGE), f"llama.cpp ({engine})"
            found = np.array(server.log_probabilities(sample))
    elif file.stat().st_size <= BY_NUMPY_BYTES:
        by = "numpy"
        found = log_probabilities(file, sample[:-1])[np.arange(n), sample[1:]]
    else:
        return None
    differences = np.abs(found - expected(info, sample))
    largest, mean = float(differences.max()), float(differences.mean())
    criterion, tolerance = _tolerance(architecture, dtype)
    differs = largest if criterion == "max" else mean
    if not differs <= tolerance:  # NaN is not
        message = (
            f"By {by} the log-probabilities of {n} tokens differ from transformers by {differs:.1e} "
            f"({'at most' if criterion == 'max' else 'on average'}); {tolerance:g} is allowed."
        )
        raise AlibiError(message, HINT)
    return Verified(
        by=by,
        text_characters=characters,
        tokens=n,
        max_abs_logprob_difference=largest,
        mean_abs_logprob_difference=mean,
        criterion=criterion,
        tolerance=tolerance,
    )


def _tolerance(architecture: Architecture, dtype: str) -> tuple[Literal["max", "mean"], float]:
    if dtype == "f32":
        return "max", GELU_TABLE if architecture.gelu else EXACT
    return "mean", MEAN[dtype]


def sample_of(tokenizer: Any, context_length: int) -> list[int]:
    """The tokens that are compared, and one before them: of the page, code and digits and then CJK and emoji."""
    ids = ids_of(PAGE, tokenizer)
    n = min(TOKENS, context_length - 2)
    ids = ids * (1 + (n + 1) // len(ids))
    return [*ids[: n // 2], *ids[n // 2 - n - 1 :]]


@torch.no_grad()
def expected(info: ModelInfo, ids: list[int]) -> np.ndarray:
    """(T - 1,) log-probabilities of all tokens but the first, by transformers in float32."""
    model = load_model(info, "cpu", "float32")
    log_probabilities = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    return np.array(log_probabilities[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist())


def check_ids(server: Engine, tokenizer: Any, text: str) -> None:
    """
    Raises:
        AlibiError: llama.cpp makes other ids of a text than the checkpoint's tokenizer, or puts other tokens around it.
    """
    for special in (False, True):
        wanted = ids_of(text, tokenizer, special)
        found = server.tokenize(text, special)
        if found == wanted:
            continue
        place = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
        around = tokenizer.decode(wanted[max(0, place - 3) : place + 3])
        message = f"llama.cpp makes other tokens of a text than the checkpoint's tokenizer, first at {around!r}."
        raise AlibiError(message, "Nothing has the final name: its tokenizer cannot be held by a GGUF file.")
