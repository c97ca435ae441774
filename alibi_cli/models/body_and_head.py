"""A language model in two halves: the body that makes hidden states, and whatever its own forward does after that.

The head is run on chosen hidden states by making the body return them while the model's forward applies the rest (projection, scale, soft
cap, the transform of a masked-language-model head), so no family needs to be known here and no (L, V) tensor needs to exist.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from alibi_cli.errors import AlibiError
from alibi_cli.shapes import Hidden, TokenIds

LOGITS_PER_CHUNK = 1 << 24  # 64 MB in float32, whatever the vocabulary


class BodyAndHead:
    """
    Raises:
        AlibiError: the model has no language-model head.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self.body, self.device = model, _body(model), device_of(model)
        self.output_class: type[BaseModelOutputWithPast] = BaseModelOutputWithPast  # the body's own, once it has run

    def hidden(self, input_ids: TokenIds) -> Hidden:
        """Hidden states as the head takes them."""
        output = self.body(input_ids=input_ids, use_cache=False, return_dict=True)
        self.output_class = type(output)
        return output.last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, d) hidden states -> (n, V) logits."""
        stand_in = torch.zeros(1, len(hidden), dtype=torch.long, device=self.device)
        with self._body_returns(hidden[None]):
            return self.model(input_ids=stand_in, use_cache=False, return_dict=True).logits[0]

    @contextmanager
    def _body_returns(self, hidden: torch.Tensor) -> Iterator[None]:
        own = vars(self.body).get("forward")  # that of accelerate, if it moves the weights of this model
        self.body.forward = lambda *args, **kwargs: self.output_class(last_hidden_state=hidden)
        try:
            yield
        finally:
            if own is None:
                del self.body.forward
            else:
                self.body.forward = own


def device_of(model: PreTrainedModel) -> torch.device:
    """Where inputs belong. A model whose first weights wait elsewhere moves them, and what it is given, itself."""
    return model.device if model.device.type != "meta" else torch.device("cpu")


def _body(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside a model with a head that its forward calls: the first one that runs."""
    called: list[PreTrainedModel] = []
    inner = [module for module in model.modules() if isinstance(module, PreTrainedModel) and module is not model]
    hooks = [module.register_forward_pre_hook(lambda module, args: called.append(module)) for module in inner]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device_of(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise AlibiError(f"{type(model).__name__} has no language-model head on top of a transformers model.")
    return called[0]
