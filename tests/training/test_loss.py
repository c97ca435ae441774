"""The loss against its definition, in float64 and by finite differences."""

import math

import pytest
import torch

from alibi_cli.training import loss as module
from alibi_cli.training.data import IGNORED
from alibi_cli.training.loss import hidden_loss, token_losses

generator = torch.Generator().manual_seed(0)
STUDENT = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) * 3
TEACHER = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) * 3
LABELS = torch.tensor([[1, 2, IGNORED, 0, 6], [IGNORED, 3, 3, 5, IGNORED]])


def by_definition(temperature: float) -> tuple[float, float]:
    ce = kl = 0.0
    rows = zip(STUDENT.flatten(0, 1).tolist(), TEACHER.flatten(0, 1).tolist(), LABELS.flatten().tolist(), strict=True)
    for student, teacher, label in rows:
        if label == IGNORED:
            continue
        ce += math.log(sum(math.exp(x) for x in student)) - student[label]
        p, q = ([math.exp(x / temperature) for x in logits] for logits in (teacher, student))
        kl += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return ce, kl


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("per_chunk", [1 << 24, 21])
def test_sums_are_those_of_the_definition(temperature: float, per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS_PER_CHUNK", per_chunk)  # 21: three tokens at a time
    ce, kd = token_losses(STUDENT, LABELS, TEACHER, temperature)
    assert (ce.item(), kd.item()) == pytest.approx(by_definition(temperature), rel=1e-12)
    alone, nothing = token_losses(STUDENT, LABELS)
    assert alone.item() == pytest.approx(by_definition(1)[0], rel=1e-12) and nothing == 0
    assert token_losses(TEACHER, LABELS, TEACHER, temperature)[1].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("per_chunk", [1 << 24, 21])
def test_gradients_by_finite_differences_and_none_for_the_teacher(
    per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS_PER_CHUNK", per_chunk)
    student = STUDENT.clone().requires_grad_()

    def total(logits: torch.Tensor) -> torch.Tensor:
        ce, kd = token_losses(logits, LABELS, TEACHER, 2.0)
        return 0.3 * ce + 0.7 * 4 * kd

    assert torch.autograd.gradcheck(total, (student,))
    total(student).backward()
    assert student.grad is not None and (student.grad[LABELS == IGNORED] == 0).all()


def test_low_precision_logits_are_summed_in_float32() -> None:
    ce, kd = token_losses(STUDENT.bfloat16(), LABELS, TEACHER.bfloat16())
    assert ce.dtype == kd.dtype == torch.float32


def test_hidden_states_are_compared_layer_by_layer_whatever_their_scale() -> None:
    ours = [torch.randn(2, 5, 8, generator=generator) for _ in range(3)]
    scored = LABELS >= 0
    assert hidden_loss(ours, [1000 * ours[0], *(3 * state + 1 for state in ours[1:])], scored) < 1e-3
    theirs = [ours[0], ours[1], torch.randn(2, 5, 8, generator=generator)]
    normal = [
        (s - s.mean(-1, keepdim=True)) / (s.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        for s in (ours[2], theirs[2])
    ]
    expected = (normal[0] - normal[1]).square().mean(-1)[scored].sum() / 2
    assert hidden_loss(ours, theirs, scored).item() == pytest.approx(expected.item(), rel=1e-5)
