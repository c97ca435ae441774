"""Names for the shapes of tensors, in signatures. Type checkers and editors read jaxtyping's; a program that runs imports none of it, and
sees `torch.Tensor`."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Queries = Float[Tensor, "batch heads queries width"]
    Keys = Float[Tensor, "batch groups keys width"]  # and values; `heads` is a multiple of `groups`
    Outputs = Float[Tensor, "batch queries heads width"]  # as transformers' attention functions have them
    Scores = Float[Tensor, "batch heads queries keys"]  # and weights
    PerHead = Float[Tensor, "heads"]
    Places = Int[Tensor, "queries"]
    TokenIds = Int[Tensor, "batch length"]
    OfTokens = Bool[Tensor, "batch length"]
    Hidden = Float[Tensor, "batch length width"]
    Logits = Float[Tensor, "batch length vocabulary"]
else:
    Queries = Keys = Outputs = Scores = PerHead = Places = TokenIds = OfTokens = Hidden = Logits = Tensor
