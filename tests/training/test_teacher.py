"""The teacher's loss by hand."""

import pytest
import torch
from torch import nn

from seedvr2_lab.model.diffusion import T_MAX
from seedvr2_lab.training.pairs import Pairs
from seedvr2_lab.training.teacher import teacher_loss

POSITIVE, NEGATIVE = torch.ones(2, 3), torch.zeros(2, 3)


class Spy(nn.Module):
    """Answers zero velocity and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, clips, text, time):
        self.clips, self.text, self.time = clips, text, time
        return self.zero * clips[:, :16]


def pool(count=64):
    generator = torch.Generator().manual_seed(0)
    return Pairs(*(torch.randn(count, 16, 1, 2, 2, generator=generator) + shift for shift in (0, 100)))


def run(step=0, **settings):
    spy = Spy()
    loss = teacher_loss([(pool(), 40)], POSITIVE, NEGATIVE, **settings)
    return spy, loss(spy, step, torch.Generator().manual_seed(step))["loss"].item()


def test_noised_target_condition_and_mask_enter_side_by_side():
    spy, _ = run(negative_share=0, condition_noise=0)
    noised, condition, mask = spy.clips.split([16, 16, 1], 1)
    assert (mask == 1).all() and (spy.time > 0).all() and (spy.time < T_MAX).all()
    remaining = (noised.mean((1, 2, 3, 4)) / 100 - (1 - spy.time / T_MAX)).abs()
    assert remaining.max() < 0.02  # the target's mean is 100, the noise's 0
    assert any(torch.equal(condition[0], low) for low in pool().low_BCTHW)


def test_times_are_logit_normal_or_uniform():
    logit_normal, uniform, mixed = (
        torch.cat([run(step, uniform_share=share)[0].time for step in range(40)]) / T_MAX for share in (0.0, 1.0, 0.5)
    )
    logits = logit_normal.logit()
    assert logits.mean().abs() < 0.1 and (logits.std() - 1).abs() < 0.1
    assert abs(uniform.mean() - 0.5) < 0.03 and abs((uniform > 0.95).float().mean() - 0.05) < 0.02
    assert 0.01 < (mixed > 0.95).float().mean() < 0.04


def test_without_an_answer_the_loss_is_the_mean_square_of_noise_minus_target():
    _, loss = run(negative_share=0)
    assert loss == pytest.approx(100**2 + 2, rel=0.01)
    _, loss = run(negative_share=1)
    assert loss == pytest.approx(0 + 2, rel=0.1)


def test_the_share_of_negative_clips_reads_the_negative_text():
    spy, _ = run(negative_share=0.3)
    is_negative = [torch.equal(text, NEGATIVE) for text in spy.text]
    assert 4 <= sum(is_negative) <= 20
    means = spy.clips[:, :16].mean((1, 2, 3, 4)) / (1 - spy.time / T_MAX)
    assert all((mean.item() < 50) == negative for mean, negative in zip(means, is_negative, strict=True))


def test_the_condition_is_noised_at_most_as_far_as_asked_and_keeps_its_contrast():
    """A condition that fades with its noise makes a small teacher guess the contrast, and guess too high."""
    size = (40, 16, 1, 16, 16)
    spy, loss = Spy(), teacher_loss([(Pairs(torch.full(size, 3.0), torch.zeros(size)), 40)], POSITIVE, NEGATIVE)
    loss(spy, 0, torch.Generator().manual_seed(0))
    condition = spy.clips[:, 16:32].flatten(1)
    assert condition.std(1).min() < 0.02 and 0.3 < condition.std(1).max() < 0.34  # up to a share of 0.25 / 0.75
    assert (condition.mean(1) - 3).abs().max() < 0.03
