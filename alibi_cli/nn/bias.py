"""The ALiBi bias as a module, for models of the reader's own: AlibiPositionalBias, LearnedAlibiPositionalBias, get_biases.

The bias is -m_h * |i - j| for query i and key j (Press et al. 2021, arXiv 2108.12409). It is the same with and without a causal mask: keys
after the query get it too, and whoever masks them does so afterwards. Add it to the scores after they are scaled.

Shapes: H total heads, i queries, j keys. The queries are the last i of the j positions, as in decoding with a cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alibi_cli.slopes import get_slopes, is_slope


class AlibiPositionalBias(nn.Module):
    """-m_h * |i - j| for the first `heads` of `total_heads` heads; the others get zero.

    The largest bias made so far is kept and smaller ones are cut out of it. What is returned never depends on earlier calls.
    Nothing is in the state dict: slopes follow from the arguments, the bias from the slopes. The arithmetic is in float32 (float64 once the
    module was moved to float64), whatever the precision of the model around it; cast the result.

    Raises:
        ValueError: heads < 1, heads > total_heads, or slopes that are not `heads` numbers, positive in float32.
    """

    _place: Tensor

    def __init__(self, heads: int, total_heads: int | None = None, *, slopes: Sequence[float] | None = None):
        super().__init__()
        default = get_slopes(heads)
        total_heads = heads if total_heads is None else total_heads
        if heads > total_heads:
            raise ValueError(f"{heads} heads with a bias are more than the {total_heads} heads in total.")
        values = default if slopes is None else [float(slope) for slope in slopes]
        if len(values) != heads:
            raise ValueError(f"{heads} heads need {heads} slopes, not {len(values)}.")
        if not all(map(is_slope, values)):
            raise ValueError("Slopes must be positive in float32, and finite.")
        self.heads, self.total_heads = heads, total_heads
        self._values = values
        # Says where the module is. The slopes are kept as Python numbers: casts of the model do not round them, and loaders that
        # leave non-persistent buffers uninitialised do not spoil them.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._kept: Tensor | None = None
        self._kept_version = 0

    _get_slopes = staticmethod(get_slopes)

    @property
    def slopes(self) -> Tensor:
        """(heads,): the slope m of each head that has a bias."""
        return torch.tensor(self._values, dtype=self._dtype, device=self._place.device)

    @property
    def device(self) -> torch.device:
        """Where biases are made."""
        return self._place.device

    @property
    def bias(self) -> Tensor | None:
        """(H, i, j): the bias that is kept for later calls, or None."""
        return self._kept

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self._place.dtype, torch.float32)

    def get_bias(self, i: int, j: int, device: torch.device | str | None = None) -> Tensor:
        """(H, i, j): the bias, computed afresh, on `device` or where the module is.

        Raises:
            ValueError: not 1 <= i <= j.
        """
        if not 1 <= i <= j:
            raise ValueError(f"Queries are the last i of j positions, 1 <= i <= j; got i={i}, j={j}.")
        device = self._place.device if device is None else device
        position = torch.arange(j, device=device)
        return self._of(position[j - i :], position)

    def forward(self, i: int, j: int) -> Tensor:
        """(H, i, j): the bias, a view of what is kept if that is large enough. Writing to it costs a new computation, no more.

        Raises:
            ValueError: not 1 <= i <= j.
        """
        if torch.compiler.is_compiling():
            return self.get_bias(i, j)
        kept = self._usable()
        if kept is None or i > kept.shape[1] or j > kept.shape[2] or not 1 <= i <= j:
            with torch.inference_mode(False):  # what is kept may be used in training later
                bias = self.get_bias(i, j)
            if kept is not None and bias.numel() < kept.numel():
                return bias  # a decoding step beyond the prompt does not displace the prompt's bias
            kept = self._kept = bias
            self._kept_version = bias._version
        return kept[:, kept.shape[1] - i :, kept.shape[2] - j :]

    def forward_custom_pos(self, pos_i: Tensor, pos_j: Tensor | None = None) -> Tensor:
        """Positions of queries and keys -> bias, for packed sequences whose positions start again: (i,) and (j,) -> (H, i, j),
        (B, i) and (B, j) -> (B, H, i, j), and with positions of each head's own, (B, heads, i) and (B, heads, j) -> (B, H, i, j).

        Raises:
            ValueError: positions per head that are not of `heads` heads.
        """
        return self._of(pos_i, pos_i if pos_j is None else pos_j)

    def _of(self, query: Tensor, key: Tensor) -> Tensor:
        distance = query[..., :, None] - key[..., None, :]  # (…, i, j), integers
        if distance.dim() < 4:
            distance = distance.unsqueeze(-3)  # (…, 1, i, j): all heads have the same positions
        elif distance.shape[-3] != self.heads:
            raise ValueError(f"Positions per head must be (B, {self.heads}, length), not {tuple(query.shape)}.")
        bias = self.slopes.to(query.device)[:, None, None] * -distance.abs()  # (…, heads, i, j)
        return nn.functional.pad(bias, (0, 0, 0, 0, 0, self.total_heads - self.heads))

    def _usable(self) -> Tensor | None:
        """What is kept, if it is of the present place and precision and no caller wrote to it."""
        kept = self._kept
        if kept is None or (kept.device, kept.dtype) != (self._place.device, self._dtype):
            return None
        return kept if kept._version == self._kept_version else None


class LearnedAlibiPositionalBias(AlibiPositionalBias):
    """The same with slopes that are trained. Their logarithm is the parameter, so that they stay positive.

    `learned_logslopes` (heads,) is in the state dict. The bias depends on it and is computed again in every call; `bias` is None.

    Raises:
        ValueError: as above.
    """

    def __init__(self, heads: int, total_heads: int | None = None, *, slopes: Sequence[float] | None = None):
        super().__init__(heads, total_heads, slopes=slopes)
        self.learned_logslopes = nn.Parameter(torch.tensor(self._values, dtype=torch.float64).log().float())

    @property
    def slopes(self) -> Tensor:
        return self.learned_logslopes.to(self._dtype).exp()

    def forward(self, i: int, j: int) -> Tensor:
        """(H, i, j): the bias, computed afresh, with gradients to the slopes."""
        return self.get_bias(i, j)


def get_biases(n_heads: int, max_len: int) -> Tensor:
    """(n_heads, max_len) float32: m_h * j for key j, the form with one row for all queries.

    Under a causal mask softmax(score + m*j) equals softmax(score - m*(i - j)): the rows differ by the constant m*i. Without one it does not
    hold, and in half precision m*j is off by whole units at a few thousand keys; there, use AlibiPositionalBias. labml's function of
    this name documents this shape and returns (max_len, n_heads).

    Raises:
        ValueError: n_heads or max_len is not a positive integer.
    """
    slopes = torch.tensor(get_slopes(n_heads), dtype=torch.float32)
    if isinstance(max_len, bool) or not isinstance(max_len, int) or max_len < 1:
        raise ValueError(f"max_len must be a positive integer, not {max_len!r}.")
    return slopes[:, None] * torch.arange(max_len)
