"""Attention to some keys with a bias and to others, the attention sinks, without one.

A bias that is a view of a line of numbers (alibi_attention.py) has no room for keys whose bias is zero at every distance. So the two kinds
are attended to apart and put together by the logarithms of their sums: with o and l the output and the log-sum of the scores of the
biased keys, and s_n the scores of the sinks,

    L = ln(e^l + sum_n e^{s_n}),    output = e^{l - L} o + sum_n e^{s_n - L} v_n.

The gradient by either kind of key is that of one softmax over all of them: given the output and L of all, the fused kernel's backward pass
computes its own part exactly, as in ring attention (Liu et al. 2023, arXiv 2310.01889).

Shapes: B batch, H heads, Q queries, K biased keys, N sinks, D head width.
"""

import torch

_FORWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def can_attend_beside(query, value, bias, dropout):
    """True where the kernel that gives the log-sums away can be used: on CPUs, without dropout or a gradient by the bias."""
    known = _FORWARD is not None and _BACKWARD is not None and query.device.type == "cpu"
    return known and not dropout and query.shape[-1] == value.shape[-1] and not bias.requires_grad


def attend_beside_sinks(query, key, value, bias, sink_key, sink_value, scaling):
    """query (B, H, Q, D), key and value (B, H, K, D), bias (B or 1, H, Q, K), sinks (B, H, N, D) twice -> (B, H, Q, D)"""
    if torch.is_autocast_enabled("cpu"):  # which would round the sinks' scores and not the kernel's
        kind = torch.get_autocast_dtype("cpu")
        query, key, value, bias, sink_key, sink_value = (
            x.to(kind) for x in (query, key, value, bias, sink_key, sink_value)
        )
    with torch.autocast("cpu", enabled=False):
        return _BesideSinks.apply(query, key, value, bias, sink_key, sink_value, scaling)


class _BesideSinks(torch.autograd.Function):
    @staticmethod
    def forward(context, query, key, value, bias, sink_key, sink_value, scaling):
        output, log_sum = _FORWARD(query, key, value, 0.0, False, attn_mask=bias, scale=scaling)
        scores = _scores(query, sink_key, scaling)  # (B, H, Q, N)
        total = torch.logaddexp(log_sum.to(scores.dtype), scores.logsumexp(-1))  # (B, H, Q)
        weights = (scores - total[..., None]).exp()
        output = output * (log_sum.to(scores.dtype) - total).exp()[..., None] + weights @ sink_value.to(scores.dtype)
        output = output.to(query.dtype)
        context.save_for_backward(query, key, value, bias, sink_key, sink_value, output, total.to(log_sum.dtype))
        context.scaling = scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        query, key, value, bias, sink_key, sink_value, output, total = context.saved_tensors
        scaling = context.scaling
        of_query, of_key, of_value = _BACKWARD(
            gradient.contiguous(), query, key, value, output, total, 0.0, False, attn_mask=bias, scale=scaling
        )
        weights = (_scores(query, sink_key, scaling) - total[..., None]).exp()  # (B, H, Q, N)
        exact = gradient.to(weights.dtype)
        of_score = exact @ sink_value.to(exact.dtype).mT - (exact * output).sum(-1, keepdim=True)
        of_score = weights * of_score * scaling
        of_query = of_query + (of_score @ sink_key.to(exact.dtype)).to(of_query.dtype)
        of_sink_key = (of_score.mT @ query.to(exact.dtype)).to(key.dtype)
        return of_query, of_key, of_value, None, of_sink_key, (weights.mT @ exact).to(value.dtype), None


def _scores(query, sink_key, scaling):
    """(B, H, Q, N), in float32 or better"""
    exact = torch.promote_types(query.dtype, torch.float32)
    return query.to(exact) @ sink_key.to(exact).mT * scaling
