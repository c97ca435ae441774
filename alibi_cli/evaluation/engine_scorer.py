"""Losses of a GGUF file, by llama.cpp."""

from collections.abc import Callable

import numpy as np

from alibi_cli.engines.llama_cpp import running
from alibi_cli.errors import UsageError
from alibi_cli.evaluation.protocols import Window
from alibi_cli.models.language_model import ModelInfo
from alibi_cli.text.tokens import TokenizedDocument


class EngineScorer:
    """Scores windows as `evaluation.scoring.Scorer` does, one after the other: several at a time took as long on two cores.

    dtype: "float32" for a float32 cache and plain attention; "float16" for llama.cpp's own defaults, which round.
    """

    def __init__(self, info: ModelInfo, prefix: list[int], dtype: str = "auto"):
        if dtype not in ("auto", "float32", "float16"):
            message = f"llama.cpp computes with a cache of float32 or, by its own defaults, of float16, not of {dtype}."
            raise UsageError(message)
        self.info, self.prefix, self.exact = info, prefix, dtype != "float16"

    def score(
        self,
        documents: list[TokenizedDocument],
        windows: list[Window],
        on_window: Callable[[int], None] = lambda n: None,
    ) -> list[np.ndarray]:
        """The NLL in nats of every target of every window, in the order of `windows`."""
        longest, scores = max(window.end - window.begin for window in windows) + len(self.prefix), []
        with running(self.info.files, longest, self.exact) as engine:
            for window in windows:
                ids = [*self.prefix, *documents[window.document].ids[window.begin : window.end].tolist()]
                first = (
                    int(window.targets[0]) - window.begin + len(self.prefix)
                )  # targets are the last tokens of a window
                scores.append(-np.array(engine.log_probabilities(ids, first)))
                on_window(1)
        return scores
