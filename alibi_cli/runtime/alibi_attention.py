"""ALiBi attention (Press et al. 2021, arXiv 2108.12409) as a transformers attention implementation.

Two functions are registered under one name. The *mask* function knows where every query and key stands, whatever the cache, the
padding or the packing; it returns -1 - |i - j|, with HIDDEN where a key may not be seen. The *attention* function turns the distances
into each head's bias with the slopes of the module that calls it. A module without slopes (cross-attention) uses them as a mask
only. All entries are negative, so that no mask of zeros and ones can pass for distances.

Shapes: B batch, H query heads, G key/value heads, Q queries, K keys, D head width.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

# Attention names are global to the process: the version keeps two generations of these files from overwriting each other.
ATTENTION_NAME = "alibi_v1"
HIDDEN = torch.iinfo(torch.int32).min

NO_DISTANCES = (
    "ALiBi attention takes distances from the mask that the model builds itself; a ready-made 4-D attention mask carries none. "
    "Pass a 2-D attention mask (1 = token, 0 = padding) instead."
)


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

    Integers, so that a distance is exact at any length and cannot be mistaken for a float or boolean mask.
    """
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
    bias = _bias_of_layer(module, attention_mask[..., : key.shape[-2]], query.dtype)
    if query.shape[1] != key.shape[1]:  # grouped queries: every query head keeps its own slope
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (B, H, K, D)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    weights = None
    if softcap is None and s_aux is None and not getattr(module, "alibi_keeps_weights", False):
        output = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
    else:
        scores = (
            query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        )  # (B, H, Q, K)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores + bias
        if s_aux is not None:
            sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)  # (B, H, Q, 1)
            scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
        exact = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores, dim=-1, dtype=exact).to(query.dtype)[..., : key.shape[-2]]
        output = torch.nn.functional.dropout(weights, dropout, module.training) @ value
    return output.transpose(1, 2).contiguous(), weights


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
