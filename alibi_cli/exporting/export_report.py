"""What an export did, as it is printed by --json."""

from typing import Literal

from pydantic import BaseModel

from alibi_cli.settings.files_for_engines import GgufType


class Verified(BaseModel):
    """The file against transformers, in float32. by: what read it. text_characters: of a page whose ids were the same in both; null if
    nothing could compare them. Differences are of log-probabilities, in nats, of `tokens` tokens; criterion: which of them was held against
    the tolerance."""

    by: str
    text_characters: int | None
    tokens: int
    max_abs_logprob_difference: float
    mean_abs_logprob_difference: float
    criterion: Literal["max", "mean"]
    tolerance: float


class ExportReport(BaseModel):
    """The JSON of `alibi export`. Sizes in bytes, times in seconds.

    architecture: llama.cpp's. heads_permuted: heads have other places than in the checkpoint. approximations: in words. tokenizer: the
    names that the file gives to its kind and its pre-tokenizer. verified: null if it was not asked for, or nothing could read the file.
    """

    output: str
    source: str
    base_model_type: str
    architecture: str
    max_bias: float
    heads_permuted: bool
    approximations: list[str]
    dtype: GgufType
    context_length: int
    tokenizer: str
    tensors: int
    bytes_written: int
    seconds: float
    verified: Verified | None
