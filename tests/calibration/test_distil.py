"""Distillation: what it finds, what it leaves alone, and what it minimises."""

import math

import numpy as np
import pytest
import torch

from alibi_cli.calibration.distil import distil, one_by_one
from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.learnable import Learnable
from alibi_cli.calibration.lookback import fit_factors, slopes_of_distances
from alibi_cli.calibration.replaced import calibrate_replaced
from alibi_cli.calibration.sparkline import Sparkline
from alibi_cli.calibration.twin import attention_modules, converted_twin
from alibi_cli.slopes import get_slopes
from alibi_cli.surgery.refusals import trained_length
from tests.calibration.helpers import alibi_model, random_parts, random_windows
from tests.models import FAMILIES, OWN_BIAS, tiny_model

LENGTH = 24
TRUE = [[0.8, 0.4, 0.2, 0.1, 0.6, 0.05], [0.3, 1.2, 0.15, 0.5, 0.07, 0.9]]


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_model_that_is_alibi_gets_its_slopes_back(family):
    """Two converted models, or a BLOOM, whose slopes are its own: the only minimum of the divergence is the truth."""
    length = LENGTH
    if family == "bloom":
        length = 4 * LENGTH  # its gentlest slope, 2^-8, cannot be told from none over 24 tokens
        teacher, truth = tiny_model("bloom", torch.float32), [get_slopes(6)] * 2
        student = converted_twin(teacher, truth, 64)
    else:
        teacher, truth = alibi_model(family, TRUE), TRUE
        student = alibi_model(family, TRUE).requires_grad_(False)
    start = torch.tensor(truth) * torch.tensor([0.5, 2.0, 0.7, 1.5, 1.8, 0.6])
    learnable = Learnable(student, start, "distil", length)
    windows, held_out = random_windows(90_000 // length, length), random_windows(1500 // length, length, 1)
    curve = distil(learnable, Divergence(teacher, student), one_by_one(windows), [held_out])
    found = np.array(learnable.slopes())
    assert np.abs(found / np.array(truth) - 1).max() <= 0.02
    assert np.abs(start.numpy() / np.array(truth) - 1).max() > 0.4  # where it began
    assert curve.held_out[-1][1] < curve.held_out[0][1] / 1000


@pytest.mark.parametrize("method", ["look-back", "distil", "distil+norms"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_divergence_falls_and_frozen_weights_do_not_move(family, method):
    model = tiny_model(family, torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = calibrate_replaced(model, random_parts(200, LENGTH, 40), method, sinks=0)
    assert found.look_back < found.start
    assert found.end < found.look_back if method != "look-back" else found.end == found.look_back
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None  # neither the original nor what it shares is ever trained
    after = dict(found.converted.named_parameters())
    shared = set(after) - set(found.learnable.tensors)
    assert all(after[name] is dict(model.named_parameters())[name] for name in shared)
    moved = {name for name in found.learnable.changed if not torch.equal(after[name], before[name])}
    assert moved == set(found.learnable.changed)
    assert bool(found.learnable.changed) == (method == "distil+norms")
    assert bool(found.learnable.added) == (family != "llama")


@pytest.mark.parametrize("logits_per_chunk", [1 << 24, 61 * 7])
def test_the_divergence_is_kl_by_definition_with_its_gradient(logits_per_chunk):
    teacher, student = tiny_model("llama"), alibi_model("llama", TRUE, torch.float64).requires_grad_(False)
    windows = random_windows(3, LENGTH)
    slopes = torch.tensor(TRUE, dtype=torch.float64, requires_grad=True)
    for module, row in zip(attention_modules(student).values(), slopes, strict=True):
        module.alibi_slopes = row
    divergence = Divergence(teacher, student, logits_per_chunk)
    value = divergence.backward(windows.input_ids, windows.compared)
    gradient, slopes.grad = slopes.grad.clone(), None

    p = torch.softmax(teacher(input_ids=windows.input_ids).logits, -1)
    q = torch.softmax(student(input_ids=windows.input_ids).logits, -1)
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    expected.backward()
    assert abs(value - expected.item()) < 1e-10
    assert abs(divergence.mean(windows) - expected.item()) < 1e-10
    assert (gradient - slopes.grad).abs().max() < 1e-9 * slopes.grad.abs().max() + 1e-12
    reverse = (q * (q.log() - p.log())).sum(-1).mean()
    assert abs(reverse.item() - expected.item()) > 1e-3  # the other direction would be noticed


def test_slopes_stay_within_bounds_whatever_is_asked():
    model = tiny_model("llama", torch.float32)
    student = converted_twin(model, [get_slopes(6)] * 2, 64)
    learnable = Learnable(student, torch.tensor([[1e9, 1e-30, 1.0, 1.0, 1.0, 1.0]] * 2), "distil", LENGTH)
    steepest, gentlest = math.log(1 / torch.finfo(torch.float32).eps), 0.01 / LENGTH
    assert learnable.slopes()[0][:2] == pytest.approx([steepest, gentlest], rel=1e-5)
    with torch.no_grad():
        learnable.log_slopes += 100
    learnable.place()
    assert max(map(max, learnable.slopes())) == pytest.approx(steepest, rel=1e-5)
    assert Divergence(model, student).mean(random_windows(2, LENGTH)) < math.inf


def test_the_slope_of_a_distance_is_that_of_the_geometric_distribution():
    slopes = np.array([0.01, 0.1, 1.0, 3.0])
    distances = np.arange(100_000.0)
    means = [(weights * distances).sum() / weights.sum() for weights in np.exp(-slopes[:, None] * distances)]
    assert slopes_of_distances(np.array(means)).numpy() == pytest.approx(slopes, rel=1e-5)


def test_factors_are_kept_only_where_they_help():
    teacher = alibi_model("llama", TRUE)
    student = alibi_model("llama", TRUE).requires_grad_(False)
    learnable = Learnable(student, torch.tensor(TRUE) / 4, "look-back", LENGTH)
    windows = random_windows(8, LENGTH)
    assert fit_factors(learnable, Divergence(teacher, student), windows) < 1e-7
    assert np.array(learnable.slopes()) == pytest.approx(np.array(TRUE), rel=1e-5)


def test_the_line_of_losses_ends_with_the_newest():
    shown = Sparkline(width=4)
    lines = [shown.add(loss) for loss in (5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0)]
    assert lines[0] == "▁" and lines[1] == "█▁" and lines[-1] == "▁▁▁█"


@pytest.mark.parametrize("family", [name for name in [*FAMILIES, *OWN_BIAS] if name not in ("bart", "marian", "t5")])
def test_every_family_is_calibrated(family):
    model = tiny_model(family, torch.float32)
    length = trained_length(model.config)
    found = calibrate_replaced(model, random_parts(100, length, 24), "distil+norms", sinks=0)
    assert found.end == found.start < 1e-6 if family in OWN_BIAS else found.end < found.start
