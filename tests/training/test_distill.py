"""Distillation where the exact answer is known: a Gaussian, whose flow is linear."""

import pytest
import torch
from torch import nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model.diffusion import T_MAX, sample
from seedvr2_lab.training.distill import Teacher, consistency_loss, halving_loss, matching_loss, two_steps_as_one
from seedvr2_lab.training.pairs import Pairs

TEXT = torch.zeros(1, 3)
MEAN, STD = 0.7, 0.4


def exact_velocity(x, time):
    """E[x_T - x_0 | x_t] of clean numbers that are normal with MEAN and STD."""
    b = torch.as_tensor(time, dtype=x.dtype) / T_MAX
    b = b.view(-1, *[1] * (x.ndim - 1)) if b.ndim else b
    a = 1 - b
    return -MEAN + (b - a * STD**2) / (a**2 * STD**2 + b**2) * (x - a * MEAN)


class Known(nn.Module):
    """A network with a known velocity plus a learnable offset."""

    def __init__(self, velocity, offset=0.0):
        super().__init__()
        self.velocity, self.offset = velocity, nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, clips, text, time):
        return self.velocity(clips[:, :2], time) + self.offset


def pool():
    generator = torch.Generator().manual_seed(0)
    high = MEAN + STD * torch.randn(64, 2, 1, 2, 2, generator=generator, dtype=torch.float64)
    return Pairs(torch.zeros_like(high), high)


def halved(velocity, student_steps):
    """The perfect student."""
    return lambda x, time: two_steps_as_one(velocity, x, torch.as_tensor(time), time - T_MAX / student_steps)


def test_a_perfect_student_of_each_stage_walks_where_the_teacher_walked():
    noise = torch.randn(200, 2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = sample(exact_velocity, noise, 64)
    velocity = exact_velocity
    for steps in (32, 16, 8, 4, 2, 1):
        velocity = halved(velocity, steps)
        torch.testing.assert_close(sample(velocity, noise, steps), expected, rtol=1e-9, atol=1e-9)


def test_the_error_of_each_stage_is_that_of_the_teachers_own_steps():
    """Euler's error falls like 1/n; distilled from 64 steps one step keeps the error of 64, undistilled it has its
    own."""
    noise = torch.randn(2000, 1, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = MEAN + STD * noise  # the flow of a Gaussian is linear
    error = {n: (sample(exact_velocity, noise, n) - exact).square().mean().sqrt().item() for n in (1, 16, 32, 64, 128)}
    assert error[64] / error[128] == pytest.approx(2, rel=0.1) and error[16] / error[32] == pytest.approx(2, rel=0.25)
    assert error[1] == pytest.approx(STD, rel=0.1)  # one step of the teacher gives the mean, all spread is lost
    velocity = exact_velocity
    for steps in (32, 16, 8, 4, 2, 1):
        velocity = halved(velocity, steps)
    found = (sample(velocity, noise, 1) - exact).square().mean().sqrt().item()
    assert found == pytest.approx(error[64], rel=1e-6)


@pytest.mark.parametrize("teacher_steps", [64, 8, 2])
def test_the_loss_is_zero_for_the_perfect_student_and_the_square_of_its_offset_else(teacher_steps):
    teacher = Teacher(Known(exact_velocity), TEXT)
    loss = halving_loss(teacher, teacher_steps, [(pool(), 32)])
    perfect = halved(exact_velocity, teacher_steps // 2)
    assert loss(Known(perfect), 0, torch.Generator().manual_seed(0))["loss"].item() < 1e-20
    student = Known(perfect, 0.3)
    value = loss(student, 0, torch.Generator().manual_seed(0))["loss"]
    assert value.item() == pytest.approx(0.09)
    value.backward()
    assert student.offset.grad.item() == pytest.approx(0.6) and teacher.dit.offset.grad is None


def test_guidance_is_folded_into_the_students_target():
    class Texts(Known):
        def forward(self, clips, text, time):
            return self.velocity(clips[:, :2], time) + text.mean()

    teacher = Teacher(Texts(exact_velocity), torch.ones(1, 3), -torch.ones(1, 3), guidance=3.0)
    loss = halving_loss(teacher, 2, [(pool(), 8)])
    guided = halved(lambda x, time: exact_velocity(x, time) + -1 + 3 * 2, 1)  # negative + scale (positive - negative)
    assert loss(Known(guided), 0, torch.Generator().manual_seed(0))["loss"].item() < 1e-20


@pytest.mark.parametrize("steps", [3, 1, 0, -2, 63])
def test_odd_teachers_are_refused(steps):
    with pytest.raises(InputError, match="even"):
        halving_loss(Teacher(Known(exact_velocity), TEXT), steps, [])


def test_from_the_same_noise_matching_is_the_last_halving():
    teacher, student = Teacher(Known(exact_velocity), TEXT), Known(exact_velocity, 0.3)
    values = [
        loss(student, 0, torch.Generator().manual_seed(0))["loss"].item()
        for loss in (
            halving_loss(teacher, 2, [(pool(), 32)]),
            matching_loss(teacher, 2, [(pool(), 32)], TEXT),
        )
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("truth", [0.0, 0.7, 1.0])
def test_a_student_of_teacher_and_truth_stands_between_a_draw_and_the_mean(truth):
    """Its loss is least where theory says."""
    teacher, scale = Teacher(Known(exact_velocity), TEXT), 0.5
    loss = matching_loss(teacher, 128, [(pool(), 4096)], TEXT, scale, truth)

    def best(x, time):  # x is scale * noise
        return x - (MEAN + (1 - truth) * STD * x / scale)

    student, least = Known(best), truth * (2 - truth) * STD**2
    value = loss(student, 0, torch.Generator().manual_seed(0))["loss"]
    value.backward()
    assert value.item() == pytest.approx(least, rel=0.15, abs=2e-4) and abs(student.offset.grad.item()) < 0.2 * STD
    for worse in (Known(best, 0.3), Known(lambda x, time: best(x, time) + 0.6 * x)):
        found = loss(worse, 0, torch.Generator().manual_seed(0))["loss"].item()
        assert found == pytest.approx(value.item() + 0.09, rel=0.2)


@pytest.mark.parametrize("truth", [0.0, 0.75, 1.0])
def test_the_teacher_is_asked_about_clips_without_a_true_target_alone(truth):
    asked = []

    def velocity(x, time):
        asked.append(len(x))
        return exact_velocity(x, time)

    loss = matching_loss(Teacher(Known(velocity), TEXT), 4, [(pool(), 1024)], TEXT, 0.5, truth)
    loss(Known(exact_velocity), 0, torch.Generator().manual_seed(0))
    share = asked[0] / 1024 if asked else 0.0
    assert share == pytest.approx(1 - truth, abs=0.05) and len(set(asked)) <= 1


def test_a_teacher_is_used_with_the_noise_it_knows():
    """One that starts from zeros always says the same."""
    teacher = Teacher(Known(lambda x, time: -MEAN + x), TEXT, noise_scale=0.0)
    loss = matching_loss(teacher, 1, [(pool(), 8)], TEXT, noise_scale=0.0)
    assert loss(Known(lambda x, time: -MEAN + x), 0, torch.Generator().manual_seed(0))["loss"].item() < 1e-20


def test_consistency_holds_for_the_exact_end_of_the_path():
    """A student that knows where each point's path ends agrees with itself, up to the error of one Euler step."""

    def to_the_end(x, time):
        b = torch.as_tensor(time, dtype=x.dtype).view(-1, 1, 1, 1, 1) / T_MAX
        a = 1 - b
        end = MEAN + STD * (x - a * MEAN) / (a**2 * STD**2 + b**2).sqrt()
        return (x - end) / b.clamp(min=1e-9)

    teacher = Teacher(Known(exact_velocity), TEXT)
    values = {}
    for steps in (16, 64):
        loss = consistency_loss(teacher, steps, [(pool(), 64)])
        found = [loss(Known(to_the_end), 0, torch.Generator().manual_seed(seed))["loss"].item() for seed in range(20)]
        values[steps] = sum(found) / len(found)
    assert values[64] < 2e-4 and values[16] / values[64] > 30  # the square of an error of second order in the step
    untrained = consistency_loss(teacher, 64, [(pool(), 64)])
    assert untrained(Known(exact_velocity, 0.5), 0, torch.Generator().manual_seed(0))["loss"].item() > 10 * values[64]


def test_at_the_last_step_consistency_is_agreement_with_the_teacher():
    teacher = Teacher(Known(exact_velocity), TEXT)
    loss = consistency_loss(teacher, 1, [(pool(), 16)])
    assert loss(Known(exact_velocity), 0, torch.Generator().manual_seed(0))["loss"].item() < 1e-20
    value = loss(Known(exact_velocity, 0.2), 0, torch.Generator().manual_seed(0))["loss"].item()
    assert value == pytest.approx(0.04)
