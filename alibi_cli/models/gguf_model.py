"""A GGUF file as a model to evaluate: what it is, its tokens and its losses, all by llama.cpp."""

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from alibi_cli.engines.gguf_package import gguf_package
from alibi_cli.engines.llama_cpp import Engine, engine_version, require_engine, running
from alibi_cli.errors import UsageError
from alibi_cli.files.digests import checked_sha256
from alibi_cli.models.language_model import LanguageModel, ModelInfo


@dataclass(frozen=True)
class GgufModel(ModelInfo):
    """kind: type of its matrices. tokenizer_sha256: of what the file says of its tokenizer."""

    kind: str = ""
    tokenizer_sha256: str = ""

    @property
    def converted(self) -> bool:
        return True

    @property
    def stored_dtype(self) -> str:
        return self.kind

    @cached_property
    def digest(self) -> str:
        return checked_sha256(self.files)

    @cached_property
    def tokenizer_digest(self) -> str:
        return self.tokenizer_sha256


def describe_file(path: Path) -> GgufModel:
    """
    Raises:
        UsageError: no such file, or none that holds a language model.
    """
    gguf = gguf_package()
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        fields = gguf.GGUFReader(path).fields
        architecture = fields["general.architecture"].contents()
        length = int(fields[f"{architecture}.context_length"].contents())
        name = gguf.LlamaFileType(fields["general.file_type"].contents()).name
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise UsageError(f"{path} is no GGUF file of a language model: {error}.") from None
    tokenizer = sha256()
    for field in sorted(name for name in fields if name.startswith("tokenizer.")):
        tokenizer.update(b"".join(part.tobytes() for part in fields[field].parts))
    return GgufModel(
        str(path),
        path,
        None,
        {"model_type": f"gguf_{architecture}"},
        False,
        hard_limit=length,  # llama.cpp's server takes no more than the file declares
        attention="llama.cpp",
        engine=require_engine(),
        kind=name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(),
        tokenizer_sha256=tokenizer.hexdigest(),
    )


class EngineTokenizer:
    """What evaluation asks of a fast tokenizer, by llama.cpp. The engine is started when it is first asked."""

    is_fast, mask_token_id = True, None

    def __init__(self, info: LanguageModel):
        self.info, self.backend_tokenizer = info, self
        fields = gguf_package().GGUFReader(info.files).fields
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
            self._engine = self._stack.enter_context(running(self.info.files, 64))
        return self._engine

    def to_str(self) -> str:
        """For the cache of tokens: all that they follow from."""
        return f"{engine_version()} {self.info.tokenizer_digest}"

    def decode(self, ids: list[int]) -> str:
        return self.engine.text(ids)
