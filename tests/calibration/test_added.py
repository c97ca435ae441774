"""The distillation of an added bias: its teacher, its gradient, what it may move, and what it reports."""

import math

import pytest
import torch

from alibi_cli.calibration import added
from alibi_cli.calibration.added import Added, calibrate_added, refine_added
from alibi_cli.calibration.divergence import Divergence
from alibi_cli.calibration.learnable import Learnable, slope_bounds
from alibi_cli.calibration.twin import converted_twin
from alibi_cli.calibration.windows import CalibrationWindows
from alibi_cli.errors import AlibiError
from alibi_cli.surgery.refusals import trained_length
from tests.calibration.helpers import FACTS, random_parts, random_windows
from tests.models import sample_tokens, tiny_model

REACH, LENGTHS = 12, (12, 24, 48)
SLOPES = [[0.3, 0.1, 0.05, 0.2, 0.02, 0.6], [0.15, 0.4, 0.07, 0.03, 0.25, 0.1]]
OFFSETS = [[0.5, 3.5, 7.5, 11.5, 1.5, 5.5], [2.5, 9.5, 4.5, 6.5, 8.5, 10.5]]


@pytest.mark.parametrize(("family", "offset"), [("llama", 4), ("llama", 0), ("esm", 4)])
def test_the_divergence_falls_on_text_that_was_never_seen_and_no_weight_moves(family, offset, monkeypatch):
    model = tiny_model(family, torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parts = random_parts(120, LENGTHS[-1], 24)
    monkeypatch.setattr(added, "TOKENS_PER_BATCH", 192)
    found = calibrate_added(model, parts.learned_from.of_length(18, 18), REACH, sinks=1, offset=offset)
    refined = refine_added(model, found, parts, REACH, LENGTHS, 12_000)
    assert set(refined.kl["start"]) == set(refined.kl["end"]) == set(LENGTHS)
    assert sum(refined.kl["end"].values()) < 0.95 * sum(refined.kl["start"].values())
    assert refined.sinks == 1 and refined.slopes != found.slopes
    if offset:
        assert refined.offsets != found.offsets
        assert all(0 <= each <= REACH for row in refined.offsets for each in row)
    else:
        assert refined.offsets is None
    gentlest, steepest = slope_bounds(REACH)
    assert all(gentlest * 0.999 <= each <= steepest * 1.001 for row in refined.slopes for each in row)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None
    # What is reported is the divergence of what was found, on the third part.
    near = trained_length(model.config)  # from which sinks are seen at most
    converted = converted_twin(
        model, refined.slopes, 48, policy="add", sinks=1, sink_distance=near, offsets=refined.offsets
    )
    divergence = Divergence(model, converted, context=REACH)
    for length in LENGTHS:
        compared = REACH if length == REACH else REACH // 2
        kls = [divergence.mean(part.of_length(length, compared)) for part in (parts.reported_on, parts.chosen_by)]
        assert refined.kl["end"][length] == pytest.approx(kls[0], rel=1e-4) != pytest.approx(kls[1], rel=1e-3)


def test_beyond_the_range_the_teacher_is_fed_its_last_tokens():
    """Against the original, called on the end of each window alone, and KL by definition."""
    model = tiny_model("llama")
    student = converted_twin(model, SLOPES, 48, policy="add", sinks=2, offsets=OFFSETS)
    windows = random_windows(3, 30).of_length(30, 6)
    assert windows.compared.sum() == 18 and windows.compared[:, 24:].all()
    divergence = Divergence(model, student, context=REACH)
    expected = []
    with torch.no_grad():
        for row in windows.input_ids:
            wanted = model(input_ids=row[None, 30 - REACH :]).logits[0, -6:].log_softmax(-1)
            found = student(input_ids=row[None]).logits[0, -6:].log_softmax(-1)
            expected.append((wanted.exp() * (wanted - found)).sum(-1))
        mean = torch.stack(expected).mean().item()
    assert divergence.mean(windows) == pytest.approx(mean, rel=1e-10)
    whole = Divergence(model, student).mean(windows)
    assert abs(whole - mean) > 1e-3  # a teacher with all of the context would be noticed
    within = random_windows(3, REACH)
    assert Divergence(model, student).mean(within) == divergence.mean(within)


def test_windows_that_are_gone_are_not_taken_for_others():
    """What is remembered goes by identity, which Python gives to the next object of its size."""
    model = tiny_model("llama", torch.float32)
    divergence = Divergence(model, converted_twin(model, SLOPES, 48))
    means = [divergence.mean(random_windows(1, 8, seed)) for seed in range(40)]
    for seed in range(40):
        fresh = Divergence(model, divergence.converted.model)
        assert means[seed] == fresh.mean(random_windows(1, 8, seed))


@pytest.mark.parametrize("length", [20, 300])
def test_the_gradient_of_slopes_and_offsets_by_finite_differences(length):
    model = tiny_model("gpt_neox", num_hidden_layers=1)  # whose norms do not round to float32
    student = converted_twin(model, SLOPES[0], length, policy="add", sinks=2)
    learnable = Learnable(student, torch.tensor(SLOPES[:1]), "distil", REACH, torch.tensor(OFFSETS[:1]))
    for name in ("log_slopes", "shares"):
        setattr(learnable, name, torch.nn.Parameter(getattr(learnable, name).double()))
    divergence = Divergence(model, student, context=REACH)
    windows = random_windows(2, length).of_length(length, REACH // 2)
    learnable.place()
    divergence.backward(windows.input_ids, windows.compared)
    for parameter in (learnable.log_slopes, learnable.shares):
        for head in range(6):
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[0, head] += step
                learnable.place()
                sides.append(divergence.mean(CalibrationWindows(windows.input_ids, windows.compared, FACTS)))
                with torch.no_grad():
                    parameter[0, head] -= step
            difference = (sides[0] - sides[1]) / 2e-5
            assert parameter.grad[0, head].item() == pytest.approx(difference, rel=1e-4, abs=1e-8)
        assert parameter.grad.abs().max() > 1e-3


def test_bounds_hold_whatever_a_step_does():
    model = tiny_model("llama", torch.float32)
    student = converted_twin(model, SLOPES, 48, policy="add")
    learnable = Learnable(student, torch.tensor(SLOPES), "distil", REACH, torch.tensor(OFFSETS))
    with torch.no_grad():
        learnable.log_slopes[:, :3] += 100
        learnable.log_slopes[:, 3:] -= 100
        learnable.shares[:, ::2] += 100
        learnable.shares[:, 1::2] -= 100
    learnable.place()
    gentlest, steepest = slope_bounds(REACH)
    assert learnable.slopes()[0] == pytest.approx([steepest] * 3 + [gentlest] * 3, rel=1e-5)
    assert learnable.offsets() == [[REACH, 0.0] * 3] * 2
    assert math.isfinite(Divergence(model, student, context=REACH).mean(random_windows(2, 12)))


def test_a_loss_that_is_not_finite_is_an_error():
    model = tiny_model("llama", torch.float32)
    model.lm_head.weight.data[5] = math.nan
    found = Added(SLOPES, OFFSETS, 0, {}, None, 0.0)
    with pytest.raises(AlibiError, match="a loss of nan at step 1"):
        refine_added(model, found, random_parts(8, 48, 2), REACH, LENGTHS, 1000)


def test_steps_feed_what_they_may_and_all_lengths():
    from alibi_cli.calibration.added import _steps

    for n_tokens in (100, 500, 2000, 50_000):
        steps = _steps(random_windows(60, 48), REACH, LENGTHS, n_tokens)
        fed = sum(part.n_tokens for step in steps for part in step)
        assert fed <= n_tokens or len(steps) == 1
        lengths = [tuple(part.input_ids.shape[1] for part in step) for step in steps]
        assert lengths == [(12, 24), (12, 48)] * (len(steps) // 2) + [(12, 24)] * (len(steps) % 2)
        far = torch.cat([step[1].input_ids[:, :24] for step in steps])
        assert len(far.unique(dim=0)) == len(far)  # each window once
    assert torch.equal(steps[0][0].input_ids[:4].flatten(), random_windows(60, 48).input_ids[0])
    assert steps[0][0].compared.all() and steps[0][1].compared.sum(1).unique().tolist() == [REACH // 2]


def test_a_bias_that_hides_nothing_is_what_the_original_does():
    model = tiny_model("llama", torch.float32)
    found = calibrate_added(model, random_windows(2, 24), 16, sinks=0)
    student = converted_twin(model, found.slopes, 24, policy="add", offsets=found.offsets)
    assert Divergence(model, student, context=16).mean(random_windows(2, 16)) < 1e-9
    assert torch.equal(
        student(input_ids=sample_tokens(1, 16)).logits.argmax(-1),
        model(input_ids=sample_tokens(1, 16)).logits.argmax(-1),
    )


def test_windows_in_which_nothing_is_masked():
    model = tiny_model("esm", torch.float32)
    divergence = Divergence(model, converted_twin(model, SLOPES, 48, policy="add"))
    ids = sample_tokens(2, 12)
    assert divergence.backward(ids, torch.zeros_like(ids, dtype=torch.bool)) == 0.0
    with pytest.raises(AlibiError, match="None of 24 tokens that are to be compared is masked"):
        divergence.mean(CalibrationWindows(ids, torch.zeros_like(ids, dtype=torch.bool), FACTS))
