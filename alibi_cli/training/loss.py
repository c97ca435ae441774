"""What is minimised: cross-entropy, and with a teacher the divergence from its predictions (Hinton et al. 2015, arXiv 1503.02531).

    loss = (1 - w) * CE + w * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + h * MSE(hidden states)

as sums over the targets, in float32 and a bounded number of logits at a time. T^2 keeps the gradient's size when T changes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, layer_norm, log_softmax
from torch.utils.checkpoint import checkpoint

from alibi_cli.models.body_and_head import LOGITS_PER_CHUNK
from alibi_cli.shapes import Hidden, OfTokens


def token_losses(
    logits: Tensor, labels: Tensor, teacher: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(…, V) logits of student and teacher and (…) targets -> (summed CE, summed KL) over the targets that are not IGNORED.

    Where the vocabulary is large, chunks of tokens are computed one after the other and again in the backward pass, so that
    float32 copies of all logits never exist at once.
    """
    logits, labels = logits.flatten(0, -2), labels.flatten()
    teacher = None if teacher is None else teacher.flatten(0, -2)
    size = max(1, LOGITS_PER_CHUNK // logits.shape[-1])
    if len(labels) <= size:
        return _sums(logits, labels, teacher, temperature)
    parts = []
    for begin in range(0, len(labels), size):
        chunk = slice(begin, begin + size)
        arguments = (logits[chunk], labels[chunk], None if teacher is None else teacher[chunk], temperature)
        parts.append(checkpoint(_sums, *arguments, use_reentrant=False))
    ce, kd = zip(*parts, strict=True)
    return torch.stack(ce).sum(), torch.stack(kd).sum()


def _sums(logits: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """(n, V), (n,), (n, V) -> the two sums."""
    scored = labels >= 0
    if not scored.all():
        logits, labels, teacher = logits[scored], labels[scored], None if teacher is None else teacher[scored]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if teacher is None:
        return cross_entropy(logits, labels, reduction="sum"), logits.new_zeros(())
    ours = log_softmax(logits, dim=-1)
    ce = -ours.gather(-1, labels[:, None]).sum()
    if temperature != 1:
        ours = log_softmax(logits / temperature, dim=-1)
    theirs = log_softmax(teacher.to(logits.dtype) / temperature, dim=-1)
    return ce, kl_div(ours, theirs, reduction="sum", log_target=True)


def hidden_loss(ours: Sequence[Hidden], theirs: Sequence[Hidden], scored: OfTokens) -> Tensor:
    """Mean over layers and width, sum over the tokens where `scored`, of the squared difference between normalised hidden states.

    Normalised, because the models may differ in scale. The first entry, the embeddings below all layers, is left out: position
    embeddings that the surgery removed are still in the teacher's.
    """
    total = ours[0].new_zeros((), dtype=torch.float32)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        width = (mine.shape[-1],)
        difference = layer_norm(mine[scored].float(), width) - layer_norm(other[scored].float(), width)  # (n, d)
        total = total + difference.square().mean(dim=-1).sum()
    return total / max(1, len(ours) - 1)
