"""A GGUF file as a model to evaluate: what it is, its tokens and its losses, all by llama.cpp."""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from alibi_cli.checkpoint.integrity import checked_sha256
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.evaluation.models import ModelInfo
from alibi_cli.evaluation.tokens import TokenizedDocument
from alibi_cli.evaluation.windows import Window
from alibi_cli.exporting.engine import Engine, require_engine, running
from alibi_cli.exporting.gguf_file import gguf_package


def describe_file(path: Path) -> ModelInfo:
    """
    Raises:
        AlibiError: no such file, or none that holds a language model.
    """
    gguf = gguf_package()
    if not path.is_file():
        raise AlibiError(f"There is no file {path}.", exit_code=EXIT_USAGE)
    try:
        fields = gguf.GGUFReader(path).fields
        architecture = fields["general.architecture"].contents()
        length = int(fields[f"{architecture}.context_length"].contents())
        kind = (
            gguf.LlamaFileType(fields["general.file_type"].contents()).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        )
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise AlibiError(f"{path} is no GGUF file of a language model: {error}.", exit_code=EXIT_USAGE) from None
    tokenizer = sha256()
    for name in sorted(name for name in fields if name.startswith("tokenizer.")):
        tokenizer.update(b"".join(part.tobytes() for part in fields[name].parts))
    return ModelInfo(
        name=str(path),
        folder=path,
        commit=None,
        model_type=f"gguf_{architecture}",
        converted=True,
        masked=False,
        trained_length=None,
        hard_limit=length,  # llama.cpp's server takes no more than the file declares
        digest=checked_sha256(path),
        tokenizer_digest=tokenizer.hexdigest(),
        attention="llama.cpp",
        stored_dtype=kind.lower(),
        engine=require_engine(),
    )


class EngineTokenizer:
    """What evaluation asks of a fast tokenizer, by llama.cpp. The engine is started when it is first asked."""

    is_fast, mask_token_id = True, None

    def __init__(self, info: ModelInfo):
        self.info, self.backend_tokenizer = info, self
        fields = gguf_package().GGUFReader(info.folder).fields
        for kind in ("bos", "eos"):
            field = fields.get(f"tokenizer.ggml.{kind}_token_id")
            setattr(self, f"{kind}_token_id", None if field is None else int(field.contents()))
        self._stack = ExitStack()
        self._engine: Engine | None = None
        weakref.finalize(self, self._stack.close)

    def __call__(self, text: str, add_special_tokens: bool = True, **options: Any) -> dict[str, Any]:
        if add_special_tokens:
            return {"input_ids": self.engine.tokenize(text, special=True)}
        pieces = self.engine.pieces(text)
        ends = list(accumulate(len(piece) for _, piece in pieces))
        # A character belongs to the first token that has a part of it, as with transformers' tokenizers.
        starts = np.cumsum([0, *(len(character.encode()) for character in text)])[:-1]
        characters = np.searchsorted(starts, ends)
        return {"input_ids": [number for number, _ in pieces], "offset_mapping": [(0, int(end)) for end in characters]}

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._stack.enter_context(running(self.info.folder, 64))
        return self._engine

    def to_str(self) -> str:
        """For the cache of tokens: all that they follow from."""
        return f"{self.info.engine} {self.info.tokenizer_digest}"

    def decode(self, ids: list[int]) -> str:
        return self.engine.text(ids)


class EngineScorer:
    """Scores windows as `evaluation.scoring.Scorer` does, one after the other: several at a time took as long on two cores.

    dtype: "float32" for a float32 cache and plain attention; "float16" for llama.cpp's own defaults, which round.
    """

    def __init__(self, info: ModelInfo, prefix: list[int], dtype: str = "auto"):
        if dtype not in ("auto", "float32", "float16"):
            message = f"llama.cpp computes with a cache of float32 or, by its own defaults, of float16, not of {dtype}."
            raise AlibiError(message, exit_code=EXIT_USAGE)
        self.info, self.prefix, self.exact = info, prefix, dtype != "float16"

    def score(
        self,
        documents: list[TokenizedDocument],
        windows: list[Window],
        on_window: Callable[[int], None] = lambda n: None,
    ) -> list[np.ndarray]:
        """The NLL in nats of every target of every window, in the order of `windows`."""
        longest, scores = max(window.end - window.begin for window in windows) + len(self.prefix), []
        with running(self.info.folder, longest, self.exact) as engine:
            for window in windows:
                ids = [*self.prefix, *documents[window.document].ids[window.begin : window.end].tolist()]
                first = (
                    int(window.targets[0]) - window.begin + len(self.prefix)
                )  # targets are the last tokens of a window
                scores.append(-np.array(engine.log_probabilities(ids, first)))
                on_window(1)
        return scores
