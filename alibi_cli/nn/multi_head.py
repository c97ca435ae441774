"""Multi-head attention with ALiBi, as a module for the reader's own model.

Shapes: B batch, H heads, Q queries, K keys (those of the cache included), D = d_model / H head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from alibi_cli.nn.bias import AlibiPositionalBias


class KeyValueCache:
    """Keys and values (B, H, K, D) of one attention module for the tokens seen so far; empty at first."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.key is None else self.key.shape[2]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones last."""
        self.key = key if self.key is None else torch.cat([self.key, key], dim=2)
        self.value = value if self.value is None else torch.cat([self.value, value], dim=2)
        return self.key, self.value


class AlibiMultiHeadAttention(nn.Module):
    """softmax(q.k / sqrt(D) - m_h * |i - j|) v, with projections, for sequences of any length.

    The bias is added after the scaling, so it does not depend on the head width, and it is no parameter and in no state dict.

    Args:
        dropout_prob: dropout on the attention weights while training.
        causal: hide later keys. Without it the bias is symmetric, as encoders need it.
        batch_first: tensors are (B, length, d_model); otherwise (length, B, d_model), as in labml and torch.nn.MultiheadAttention.
        slopes: one per head; Press et al.'s if not given.
        bias: whether the projections have one.

    Raises:
        ValueError: heads is not positive, does not divide d_model, or does not fit the slopes; dropout_prob is outside [0, 1].
    """

    def __init__(
        self,
        heads: int,
        d_model: int,
        dropout_prob: float = 0.1,
        *,
        causal: bool = True,
        batch_first: bool = False,
        slopes: Sequence[float] | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.alibi = AlibiPositionalBias(heads, slopes=slopes)
        if d_model < 1 or d_model % heads:
            raise ValueError(f"d_model must be a positive multiple of the {heads} heads, not {d_model}.")
        if not 0 <= dropout_prob <= 1:
            raise ValueError(f"dropout_prob must be between 0 and 1, not {dropout_prob}.")
        self.heads, self.d_model, self.dropout_prob = heads, d_model, dropout_prob
        self.causal, self.batch_first = causal, batch_first
        self.query = nn.Linear(d_model, d_model, bias)
        self.key = nn.Linear(d_model, d_model, bias)
        self.value = nn.Linear(d_model, d_model, bias)
        self.output = nn.Linear(d_model, d_model, bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """(Q, B, d_model) -> (Q, B, d_model), or (B, Q, d_model) -> the same with batch_first.

        The queries are the last Q of the K positions. A padded query that no key is left for gives finite numbers without meaning.

        Args:
            key, value: the query's own sequence if not given.
            mask: boolean, True where a query may see a key, besides `causal`: (Q, K), or with the batch as a third dimension where the
                layout has it, (Q, K, B) or (B, Q, K); a batch of one serves all.
            key_padding_mask: boolean (B, K), True for padding, as in torch.nn.MultiheadAttention; K counts the cached keys too.
            cache: keys and values so far, which the new ones are appended to.

        Raises:
            ValueError: more queries than keys, a mask that is not boolean or does not fit, or a cache without causal attention.
        """
        if cache is not None and not self.causal:
            raise ValueError("A cache needs causal attention: without it, earlier outputs depend on later tokens.")
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        past = 0 if cache is None else len(cache)
        batch, queries, keys = q.shape[0], q.shape[2], past + k.shape[2]
        bias = self.alibi(queries, keys)  # (H, Q, K); refuses more queries than keys
        visible = self._visible(batch, queries, keys, mask, key_padding_mask, q.device)  # (B or 1, 1, Q, K) or None
        if cache is not None:  # after the checks: what is refused leaves the cache as it was
            k, v = cache.append(k, v)
        if visible is not None:
            nothing_visible = ~visible.any(dim=-1, keepdim=True)  # not every kernel is safe from a softmax over nothing
            bias = bias.clamp_min(torch.finfo(q.dtype).min)  # far keys of float16 stay above hidden ones
            bias = bias.masked_fill(~(visible | nothing_visible), -torch.inf)  # (B or 1, H, Q, K)
        dropout = self.dropout_prob if self.training else 0.0
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)  # (B, H, Q, D)
        out = out.permute(0, 2, 1, 3) if self.batch_first else out.permute(2, 0, 1, 3)
        return self.output(out.flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(length, B, d_model) or (B, length, d_model) -> (B, H, length, D)."""
        x = x.unflatten(-1, (self.heads, self.d_model // self.heads))
        return x.permute(0, 2, 1, 3) if self.batch_first else x.permute(1, 2, 0, 3)

    def _visible(
        self,
        batch: int,
        queries: int,
        keys: int,
        mask: Tensor | None,
        padding: Tensor | None,
        device: torch.device,
    ) -> Tensor | None:
        visible = None
        if self.causal and queries > 1:
            visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]
        for name, given in (("mask", mask), ("key_padding_mask", padding)):
            if given is None:
                continue
            if given.dtype != torch.bool:
                raise ValueError(f"{name} must be boolean, not {given.dtype}.")
            allowed = self._of_batch(given) if name == "mask" else ~given[:, None, None] if given.dim() == 2 else None
            rows = queries if name == "mask" else 1
            if allowed is None or allowed.shape[0] not in (1, batch) or allowed.shape[2:] != (rows, keys):
                wanted = f"({queries}, {keys}), with or without the batch" if name == "mask" else f"({batch}, {keys})"
                raise ValueError(f"{name} must be {wanted}; it is {tuple(given.shape)}.")
            visible = allowed if visible is None else visible & allowed
        return visible

    def _of_batch(self, mask: Tensor) -> Tensor | None:
        """(Q, K) and the layout's three dimensions -> (B or 1, 1, Q, K)."""
        if mask.dim() == 2:
            return mask[None, None]
        if mask.dim() == 3:
            return mask[:, None] if self.batch_first else mask.permute(2, 0, 1)[:, None]
        return None
