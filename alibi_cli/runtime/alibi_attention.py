"""ALiBi attention (Press et al. 2021, arXiv 2108.12409) as a transformers attention implementation.

Two functions are registered under one name. The *mask* function knows where every query and key stands, whatever the cache, the
padding or the packing; it returns -1 - |i - j|, with HIDDEN where a key may not be seen. The *attention* function turns the distances
into each head's bias with the slopes of the module that calls it. A module without slopes (cross-attention) uses them as a mask
only. All entries are negative, so that no mask of zeros and ones can pass for distances.

Without padding, packing or windows, a distance depends on i - j alone. Then nothing of size Q x K is made: with the queries in reverse
order the bias is a Hankel matrix, entry (r, j) = line[r + j], which is a view of a line of Q + K - 1 numbers, and the fused kernel reads
it through its strides, a block of queries at a time. Keys too far away to matter are left out, by a bound that is read from the data.

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

import itertools

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

# Attention names are global to the process: the version keeps two generations of these files from overwriting each other.
ATTENTION_NAME = "alibi_v1"
HIDDEN = torch.iinfo(torch.int32).min
BLOCK = 256  # queries per call of the kernel: few enough to skip the hidden half, enough to keep the kernel busy
STEP = 64  # spans of keys begin and end at multiples of this, so that heads of similar reach share a call

NO_DISTANCES = (
    "ALiBi attention takes distances from the mask that the model builds itself; a ready-made 4-D attention mask carries none. "
    "Pass a 2-D attention mask (1 = token, 0 = padding) instead."
)


class Unbroken(torch.Tensor):
    """(1, 1, Q, K): the distances of one sequence without gaps, whose queries are the last Q of K positions, held as a line.

    line: (1, 1, 1, Q + K - 1) int32, -1 - |d| for the differences d = i - j from K - 1 down to 1 - Q; HIDDEN for d < 0 if causal.
    Attention reads the line. Whatever else is done to this tensor (slicing, arithmetic, moving) is done to all Q x K entries.
    """

    @staticmethod
    def of(queries, keys, causal, device):
        difference = torch.arange(keys - 1, -queries, -1, dtype=torch.int32, device=device)
        line = -1 - difference.abs()
        self = line.new_zeros(()).expand(1, 1, queries, keys).as_subclass(Unbroken)
        self.line = (line.masked_fill_(difference < 0, HIDDEN) if causal else line)[None, None, None]
        self.causal, self._entries = causal, None
        return self

    def entries(self):
        if self._entries is None:
            self._entries = self.line.squeeze(2).unfold(-1, self.shape[-1], 1).flip(-2)  # (1, 1, Q, K)
        return self._entries

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _OF_SHAPE:
            return super().__torch_function__(function, types, args, kwargs)
        args, kwargs = tree_map_only(cls, cls.entries, (args, kwargs))
        return function(*args, **kwargs)


# What may be asked about a tensor without reading its entries.
_OF_SHAPE = {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")}
_OF_SHAPE |= {torch.Tensor.size, torch.Tensor.dim}


def alibi_distances(
    batch_size,
    q_length,
    kv_length,
    q_offset=0,
    kv_offset=0,
    mask_function=causal_mask_function,
    attention_mask=None,
    device="cpu",
    use_vmap=False,
    **kwargs,
):
    """(B or 1, 1, Q, K) int32: -1 - |i - j| for query i and key j, HIDDEN where the mask hides the key.

    Integers, so that a distance is exact at any length and cannot be mistaken for a float or boolean mask. `Unbroken` where it can be.
    """
    causal = mask_function is causal_mask_function
    if (
        (causal or mask_function is bidirectional_mask_function)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and isinstance(q_offset, int)  # static caches, which are longer than what they hold, give a tensor
        and q_offset + q_length == kv_offset + kv_length
        and q_length <= kv_length
        and (attention_mask is None or (attention_mask.shape[-1] >= kv_offset + kv_length and attention_mask.all()))
    ):
        return Unbroken.of(q_length, kv_length, causal, device)
    visible = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        device=device,
        use_vmap=use_vmap,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
    )
    if visible.stride(0) == 0:  # one mask, expanded over the batch: keep the one
        visible = visible[:1]
    query = torch.arange(q_length, device=device) + q_offset
    key = torch.arange(kv_length, device=device) + kv_offset
    distance = (query[:, None] - key[None, :]).abs()  # (Q, K)
    return torch.where(visible, -1 - distance, HIDDEN).to(torch.int32)


def alibi_bias(distances, slopes, dtype):
    """(B, 1, Q, K) from alibi_distances -> (B, H, Q, K) additive bias -m_h * |i - j|; the lowest finite value where hidden.

    Computed in float32 (float64 for a float64 model) and rounded once: near keys, which carry the weight, stay exact in bfloat16.
    """
    lowest = torch.finfo(dtype).min
    if slopes is None:
        return torch.zeros_like(distances, dtype=dtype).masked_fill_(distances == HIDDEN, lowest)
    exact = torch.promote_types(dtype, torch.float32)
    slopes = torch.as_tensor(slopes, dtype=exact, device=distances.device)  # a tensor keeps its gradient
    bias = (distances + 1) * slopes[:, None, None]  # (B, H, Q, K)
    return bias.masked_fill_(distances == HIDDEN, lowest).clamp_min_(lowest).to(dtype)


def alibi_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, s_aux=None, **kwargs
):
    """softmax(scaling * q.k - m_h * |i - j|) v for query (B, H, Q, D) and key, value (B, G, K, D) -> (B, Q, H, D).

    The bias is added after the scaling and the soft cap and never multiplied by either. `s_aux` are attention sinks: one
    more score per head, which takes part in the softmax and has no value. The weights (B, H, Q, K) are the second result if the module
    has a true `alibi_keeps_weights`, else None.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        raise ValueError(NO_DISTANCES)
    if query.shape[1] != key.shape[1]:  # grouped queries: every query head keeps its own slope
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, K, D)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    keeps_weights = getattr(module, "alibi_keeps_weights", False)
    options = (scaling, dropout, softcap, s_aux, module.training, keeps_weights)
    unbroken = isinstance(attention_mask, Unbroken) and attention_mask.shape[-1] == key.shape[-2]
    learns = _learns_slopes(module)
    # What a gradient of the slopes needs to be a sum over distances: see `_with_gradient`.
    linear = unbroken and attention_mask.causal and softcap is None and s_aux is None
    if unbroken and not keeps_weights and (linear or not learns):
        line, width = _bias_of_layer(module, attention_mask.line, query.dtype).detach(), value.shape[-1]
        if learns:
            options = (query.shape[-1] ** -0.5 if scaling is None else scaling, *options[1:])
            query, key, value = _with_gradient(query, key, value, module.alibi_slopes, options[0])
        return _in_blocks(query, key, value, line, attention_mask.causal, options)[..., :width].contiguous(), None
    bias = _bias_of_layer(module, attention_mask[..., : key.shape[-2]], query.dtype)
    output, weights = _attend(query, key, value, bias, *options)
    return output.contiguous(), weights


def _with_gradient(query, key, value, slopes, scaling):
    """Query, key and value with a dimension more, whose scores are nought and whose gradient is that of the slopes.

    The score s_ij of a causal head has the derivative -(i - j) by m, and the gradient by a row of scores sums to nought, so j - c does
    as well as -(i - j), for any c. That is a product: m - m.detach(), which is nought, in the query and j - c in the key. The kernel then
    needs no gradient by the bias, for which it would make matrices of scores. Eight dimensions: kernels want multiples of that.
    """
    place = torch.arange(key.shape[2], device=key.device).to(key.dtype) - (key.shape[2] - 1) / 2
    place = place[:, None].expand(*key.shape[:3], 1)
    nought = ((slopes - slopes.detach()) / scaling).to(query.dtype)[None, :, None, None].expand(*query.shape[:3], 1)
    pad = torch.nn.functional.pad
    query, key = (pad(torch.cat(parts, dim=-1), (0, 7)) for parts in ((query, nought), (key, place)))
    return query, key, pad(value, (0, query.shape[-1] - value.shape[-1]))


def _in_blocks(query, key, value, line, causal, options):
    """As `alibi_attention`, for one unbroken sequence; line (1, H, 1, Q + K - 1): bias by i - j, from K - 1 down to 1 - Q."""
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    reaches = _reaches(query, key, value, line, *options)
    query, outputs = query.flip(2), []  # row r is query i = Q - 1 - r, at position K - 1 - r
    for first, reach in zip(range(0, queries, BLOCK), reaches, strict=True):
        rows, parts = query[:, :, first : first + BLOCK], []
        low, high = keys - first - rows.shape[2], keys - first  # the positions of the block
        spans = [
            (max(0, low - d) // STEP * STEP, high if causal else min(keys, -(-(high + d) // STEP) * STEP))
            for d in reach
        ]
        for (begin, end), run in itertools.groupby(
            range(heads), spans.__getitem__
        ):  # neighbouring heads with equal spans
            some = list(run)
            some = slice(some[0], some[-1] + 1)
            bias = line[0, some, 0, first + begin : first + rows.shape[2] + end - 1]
            bias = bias.unfold(-1, end - begin, 1)[None]  # (1, heads of the run, rows, keys), a view
            if bias.device.type != "cpu":
                bias = bias.contiguous()  # other kernels want rows that do not overlap: one block at a time
            parts.append(_attend(rows[:, some], key[:, some, begin:end], value[:, some, begin:end], bias, *options)[0])
        outputs.append(torch.cat(parts, dim=2))
    return torch.cat(outputs, dim=1).flip(1)


@torch.no_grad()
def _reaches(query, key, value, line, scaling, dropout, softcap, s_aux, *rest):
    """[blocks][H]: for each block of reversed queries the distance per head beyond which no key changes the result but by rounding.

    Key j at distance d weighs exp(s_j - s_i - m d) times as much as the query's own key i. Whatever c is, s_j - s_i is at most
    scaling * (|q| max |k - c| - q.(k_i - c)). Once m d exceeds that by ln(2^24 n max |v| / |v_i|), all such keys together are less
    than the rounding of the query's own share p_i v_i: n is the sum of e^(-m d) over d = 0, 1, … on both sides, or K if that is less.
    A soft cap brings scores closer together, never farther apart.
    """
    (heads, queries), keys = query.shape[1:3], key.shape[2]
    blocks = -(-queries // BLOCK)
    learning = query.requires_grad or key.requires_grad or value.requires_grad
    if blocks == 1 or learning or s_aux is not None or line.shape[1] != heads or line.device.type != "cpu":
        return [[keys] * heads] * blocks
    exact = torch.promote_types(query.dtype, torch.float32)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, centred, size = query.to(exact), key.to(exact), value.abs().amax(-1).to(exact)  # size (B, H, K)
    centred = centred - centred.mean(2, keepdim=True)
    bound = query.norm(dim=-1) * centred.norm(dim=-1).amax(-1, keepdim=True) * abs(scaling)
    bound = bound - torch.linalg.vecdot(query, centred[:, :, keys - queries :]) * scaling  # (B, H, Q)
    bound = bound + (size.amax(-1, keepdim=True) / size[:, :, keys - queries :]).log()
    past = line[0, :, 0, :keys].to(exact)  # bias at the distances K - 1 … 0, which never decreases
    n = (2 / -torch.expm1(past[:, -2])).clamp_max(keys)  # (H,)
    bound = bound + (n * 2 / torch.finfo(exact).eps).log()[:, None] + 1  # 1: the bound is rounded, too
    bound = bound.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(0).flip(-1)  # (H, Q) in reverse
    bound = torch.nn.functional.pad(bound, (0, blocks * BLOCK - queries), value=-torch.inf)
    bound = bound.unflatten(-1, (blocks, BLOCK)).amax(-1)
    return (keys - 1 - torch.searchsorted(past.contiguous(), -bound)).T.tolist()


def _attend(query, key, value, bias, scaling, dropout, softcap, s_aux, training, keeps_weights):
    """(B, H, Q, D), (B, H, K, D), (B, H, K, D), (B, H, Q, K) -> (B, Q, H, D), weights (B, H, Q, K) or None"""
    if softcap is None and s_aux is None and not keeps_weights:
        output = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
        return output.transpose(1, 2), None
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)  # (B, H, Q, K)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + bias
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)  # (B, H, Q, 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)[..., : key.shape[-2]]
    output = torch.nn.functional.dropout(weights, dropout, training) @ value
    return output.transpose(1, 2), weights


def _learns_slopes(module):
    slopes = getattr(module, "alibi_slopes", None)
    return isinstance(slopes, torch.Tensor) and slopes.requires_grad and torch.is_grad_enabled()


def _bias_of_layer(module, distances, dtype):
    """Layers with equal slopes share one bias for the length of a forward pass: it lives on the distances they all receive."""
    slopes = getattr(module, "alibi_slopes", None)
    if torch.compiler.is_compiling() or isinstance(slopes, torch.Tensor):  # slopes that are being learned
        return alibi_bias(distances, slopes, dtype)
    owner = distances if distances._base is None else distances._base
    key = (None if slopes is None else tuple(slopes), dtype, distances.shape[-1])
    cached = getattr(owner, "_alibi_bias", None)
    if cached is None or cached[0] != key:
        if distances.numel() and distances.max() >= 0:  # once per forward, not once per layer
            raise ValueError(NO_DISTANCES)
        cached = (key, alibi_bias(distances, slopes, dtype))
        owner._alibi_bias = cached
    return cached[1]


AttentionInterface.register(ATTENTION_NAME, alibi_attention)
AttentionMaskInterface.register(ATTENTION_NAME, alibi_distances)
