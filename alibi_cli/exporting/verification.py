"""Does the file compute what the checkpoint computes? Compared before it has its name."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.models import ModelInfo, load_model
from alibi_cli.exporting.engine import Engine, engine_version, running
from alibi_cli.exporting.families import Architecture
from alibi_cli.exporting.forward import log_probabilities
from alibi_cli.exporting.page import PAGE
from alibi_cli.exporting.report import Verified

TOKENS = 256
BY_NUMPY_BYTES = 64 << 20  # of a file that is recomputed with numpy where there is no engine
HINT = "Nothing has the final name. Please report this with the model's name."
# Nats that a log-probability may differ by. A wrong slope, or two heads exchanged, makes more of a difference than any of these.
TOLERANCE = {"f32": 5e-3, "f16": 0.1, "bf16": 1.0, "q8_0": 1.5}
GELU_TABLE = 0.2  # what llama.cpp's table of GELU in half precision adds on a CPU


def verify(file: Path, info: ModelInfo, tokenizer: Any, architecture: Architecture, dtype: str) -> Verified | None:
    """Compares ids of a page and log-probabilities of its first tokens with transformers, by llama.cpp if it is installed, and by numpy if
    not and the file is small. None if nothing can.

    Raises:
        AlibiError: they differ.
    """
    ids = tokenizer(PAGE, add_special_tokens=False)["input_ids"]
    ids = ids * (1 + (TOKENS + 1) // len(ids))
    sample = ids[: TOKENS // 2] + ids[-TOKENS // 2 - 1 :]  # code and digits, then CJK and emoji
    tolerance, characters = TOLERANCE[dtype] + (GELU_TABLE if architecture.gelu else 0.0), None
    if (engine := engine_version()) is not None:
        with running(file, len(sample)) as server:
            check_ids(server, tokenizer, PAGE)
            characters, by = len(PAGE), f"llama.cpp ({engine})"
            found = np.array(server.log_probabilities(sample, range(1, len(sample))))
    elif file.stat().st_size <= BY_NUMPY_BYTES:
        by = "numpy"
        found = log_probabilities(file, sample[:-1])[np.arange(TOKENS), sample[1:]]
    else:
        return None
    differences = np.abs(found - expected(info, sample))
    largest = float(differences.max()) if np.isfinite(differences).all() else float("inf")
    if not largest <= tolerance:
        message = f"By {by} a log-probability differs by {largest:.1e} from transformers, and at most {tolerance:.1g} is allowed."
        raise AlibiError(message, HINT)
    mean = float(differences.mean())
    return Verified(
        by=by,
        text_characters=characters,
        tokens=TOKENS,
        max_abs_logprob_difference=largest,
        mean_abs_logprob_difference=mean,
        tolerance=tolerance,
    )


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
        wanted = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        found = server.tokenize(text, special)
        if found == wanted:
            continue
        place = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
        around = tokenizer.decode(wanted[max(0, place - 3) : place + 3])
        message = f"llama.cpp makes other tokens of a text than the checkpoint's tokenizer, first at {around!r}."
        raise AlibiError(message, "Nothing has the final name: its tokenizer cannot be held by a GGUF file.")
