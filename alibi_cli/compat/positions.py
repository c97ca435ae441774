"""What your own policy may need: a bias kept in a module, and position embeddings that add nothing.

The built-in policies need neither: their bias follows from the distances of each forward, and their embeddings are gone. With these two,
the bias and the embeddings have a size, and inputs beyond it fail.
"""

from operator import attrgetter

import torch
from torch import nn

from alibi_cli.nn.bias import AlibiPositionalBias, get_biases


def register_alibi(module: nn.Module, n_heads: int, max_token_length: int, causal: bool) -> nn.Module:
    """Gives `module` a buffer `alibi` with the bias of Press et al. 2021 (arXiv 2108.12409), and returns the module.

    causal: (n_heads, 1, L) with m_h * j for key j, one row for all queries, which a causal mask makes the same as -m_h * (i - j).
    Otherwise (1, n_heads, L, L) with -m_h * |i - j|. L is max_token_length; L = 1 broadcasts to any length and is no bias there.

    The buffer is float32 on the module's device. Called again, it replaces the buffer. It is not in the state dict, so that checkpoints
    do not grow with the square of the length: call this again after loading.

    Raises:
        ValueError: n_heads or max_token_length is not a positive integer, causal is not True or False, or the module already has an
            attribute `alibi` that is no buffer.
    """
    _check_length("max_token_length", max_token_length)
    if not isinstance(causal, bool):
        raise ValueError(f"causal must be True or False, not {causal!r}.")
    if hasattr(module, "alibi") and "alibi" not in module._buffers:
        raise ValueError(f"{type(module).__name__} already has an attribute alibi that is not a buffer.")
    if causal:
        bias = get_biases(n_heads, max_token_length)[:, None]
    else:
        bias = AlibiPositionalBias(n_heads).get_bias(max_token_length, max_token_length)[None]
    place = next(module.parameters(), None)
    module.register_buffer("alibi", bias if place is None else bias.to(place.device), persistent=False)
    return module


def zero_and_freeze_expand_position_embeddings(
    module: nn.Module, max_sequence_length: int, position_embedding_attribute: str
) -> None:
    """Replaces the weight of a position embedding by zeros for `max_sequence_length` positions that are not trained.

    Families that count positions from padding_idx + 1 (RoBERTa) or from an `offset` (OPT) get that many rows more, so that the length is
    usable. Type, device and layout stay; `num_embeddings` follows.

    Args:
        position_embedding_attribute: where the embedding is, seen from `module`; may have dots: "embeddings.position_embeddings".

    Raises:
        ValueError: max_sequence_length is not a positive integer.
        AttributeError: there is no such attribute, or it has no weight.
        TypeError: its weight is not a torch.nn.Parameter, or not two-dimensional.
    """
    _check_length("max_sequence_length", max_sequence_length)
    where = f"{type(module).__name__}.{position_embedding_attribute}"
    try:
        embedding = attrgetter(position_embedding_attribute)(module)
        old = embedding.weight
    except AttributeError as error:
        raise AttributeError(f"No position embedding with a weight at {where}: {error}.") from error
    if not isinstance(old, nn.Parameter) or old.dim() != 2:
        raise TypeError(f"{where}.weight must be a torch.nn.Parameter of two dimensions; it is a {type(old).__name__}.")
    padding = getattr(embedding, "padding_idx", None)
    first = max(getattr(embedding, "offset", 0), 0 if padding is None else padding + 1)
    rows = max_sequence_length + first
    embedding.weight = nn.Parameter(torch.zeros_like(old[:1]).repeat(rows, 1), requires_grad=False)
    if hasattr(embedding, "num_embeddings"):
        embedding.num_embeddings = rows


def _check_length(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}.")
