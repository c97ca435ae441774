"""Models that solve the tasks by construction, and one that cannot: the tasks must tell them apart."""

from collections.abc import Callable

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutput

from alibi_cli.settings.presets import presets_folder
from tests.evaluation.tasks.by_hand import value_of

VOCABULARY = 257
TOKENIZER = AutoTokenizer.from_pretrained(
    presets_folder() / "demo-llama"
)  # one token per byte; the tiny models have it too


class Body(PreTrainedModel):
    """Its hidden states are one-hot: the token that `oracle` (tokens so far -> next token) would write after every position."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig, oracle: Callable[[list[int]], int]):
        super().__init__(config)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.oracle = oracle

    def forward(self, input_ids, **kwargs):
        following = [[self.oracle(row[: end + 1]) for end in range(len(row))] for row in input_ids.tolist()]
        hidden = torch.nn.functional.one_hot(torch.tensor(following), VOCABULARY).float()
        return BaseModelOutputWithPast(last_hidden_state=hidden + self.anchor)


class Oracle(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, oracle: Callable[[list[int]], int]):
        config = PretrainedConfig(vocab_size=VOCABULARY)
        super().__init__(config)
        self.body = Body(config, oracle)

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=self.body(input_ids=input_ids).last_hidden_state)

    def get_input_embeddings(self):
        return torch.nn.Embedding(VOCABULARY, 1)


def copies(seen: list[int]) -> int:
    """Continues with what followed the last earlier occurrence of the five tokens just read, as an induction head does."""
    for end in range(len(seen) - 1, 4, -1):
        if seen[end - 5 : end] == seen[-5:]:
            return seen[end]
    return 0


def calculates(seen: list[int]) -> int:
    """Evaluates the expression on the last line, once it has been asked for."""
    text = TOKENIZER.decode(seen)
    return digit(value_of(text.splitlines()[-1].removesuffix(" = "))) if text.endswith(" = ") else 0


def digit(value: int) -> int:
    return TOKENIZER(str(value), add_special_tokens=False)["input_ids"][0]
