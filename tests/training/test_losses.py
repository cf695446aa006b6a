"""The adversarial losses against hand-computed values, autograd and their limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_lab.training.losses import (
    ARMS,
    approximate_penalty,
    discriminator_loss,
    exact_penalty,
    feature_matching,
    generator_loss,
    l1,
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_pairings_by_hand(real, fake):
    real_B, fake_B = torch.tensor([real], dtype=torch.float64), torch.tensor([fake], dtype=torch.float64)
    expected = {
        ("rpgan", "d"): softplus(-(real - fake)),
        ("rpgan", "g"): softplus(-(fake - real)),
        ("non_saturating", "d"): softplus(-real) + softplus(fake),
        ("non_saturating", "g"): softplus(-fake),
    }
    for (pairing, player), value in expected.items():
        loss = (discriminator_loss if player == "d" else generator_loss)(real_B, fake_B, pairing)
        assert loss.shape == (1,) and loss.item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_only_the_difference_counts_in_rpgan():
    real_B, fake_B = torch.randn(5), torch.randn(5)
    for loss in (discriminator_loss, generator_loss):
        torch.testing.assert_close(loss(real_B + 3, fake_B + 3, "rpgan"), loss(real_B, fake_B, "rpgan"))
        assert not torch.allclose(
            loss(real_B + 3, fake_B + 3, "non_saturating"), loss(real_B, fake_B, "non_saturating")
        )


def smooth_critic(clips):
    """A smooth function of all numbers of a clip, with different gradients everywhere."""
    logits = []
    for clip in clips:
        places = torch.arange(clip.numel(), dtype=clip.dtype).view_as(clip)
        logits.append((torch.sin(clip + places) * torch.cos(0.5 * places)).sum() + 0.1 * clip.square().sum())
    return torch.stack(logits)


def known_gradient(clip):
    places = torch.arange(clip.numel(), dtype=clip.dtype).view_as(clip)
    return torch.cos(clip + places) * torch.cos(0.5 * places) + 0.2 * clip


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 3, 4), (3, 2, 2, 3, 4), (1, 4, 1, 2, 2)])
def test_the_exact_penalty_is_the_squared_norm_of_the_gradient(shape):
    clips = torch.randn(shape, dtype=torch.float64)
    expected = torch.stack([known_gradient(clip).square().sum() for clip in clips])
    torch.testing.assert_close(exact_penalty(smooth_critic, clips), expected)
    torch.testing.assert_close(exact_penalty(smooth_critic, list(clips)), expected)


def test_the_exact_penalty_takes_clips_of_several_sizes():
    clips = [torch.randn(size, dtype=torch.float64) for size in ((2, 1, 2, 2), (2, 3, 4, 2))]
    expected = torch.stack([known_gradient(clip).square().sum() for clip in clips])
    torch.testing.assert_close(exact_penalty(smooth_critic, clips), expected)


def test_the_exact_penalty_reaches_the_critics_weights():
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    critic = critic.double()
    clips = torch.randn(4, 6, dtype=torch.float64)
    exact_penalty(lambda x: critic(x).squeeze(1), clips).sum().backward()
    weight, step = critic[1].weight, 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[0, 0] += sign * step
            with torch.enable_grad():
                values.append(exact_penalty(lambda x: critic(x).squeeze(1), clips).sum().item())
            weight[0, 0] -= sign * step
    assert weight.grad[0, 0].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_approximate_penalty_tends_to_sigma_squared_times_the_exact_one(mixed):
    """The mean over noise, in float64; its own statistical error is 1 % for 20,000 draws."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(2, 2, 1, 2, 3, dtype=torch.float64, generator=generator)
    exact = exact_penalty(smooth_critic, clips)
    draws, ratios = 20_000, {}
    for sigma in (0.3, 0.03, 0.003):
        mean = torch.zeros(2, dtype=torch.float64)
        for place, clip in enumerate(clips):
            many = clip.expand(draws, *clip.shape)
            noise = torch.randn(many.shape, dtype=torch.float64, generator=generator)
            arguments = (list(many), list(noise)) if mixed and sigma == 0.003 else (many, noise)
            critic = smooth_critic if mixed and sigma == 0.003 else torch.vmap(lambda x: smooth_critic(x[None])[0])
            many_arguments, noise = arguments
            logits_B = smooth_critic(clip[None]).expand(draws)
            mean[place] = approximate_penalty(critic, many_arguments, logits_B, sigma, noise).mean()
        ratios[sigma] = mean / (sigma**2 * exact)
    assert (ratios[0.003] - 1).abs().max() < 0.02
    assert (ratios[0.03] - 1).abs().max() < 0.05
    assert (ratios[0.3] - 1).abs().max() > 0.05  # far from the limit they differ


def test_l1_by_hand():
    a, b = torch.zeros(2, 1, 1, 1, 2), torch.tensor([[1.0, -3.0], [0.0, 0.5]]).view(2, 1, 1, 1, 2)
    torch.testing.assert_close(l1(a, b), torch.tensor([2.0, 0.25]))
    torch.testing.assert_close(l1(list(a), list(b)), torch.tensor([2.0, 0.25]))


def test_feature_matching_is_a_mean_per_clip_and_sends_nothing_to_the_real_features():
    fake = [torch.randn(5, 3, requires_grad=True) for _ in range(2)]
    real = [torch.randn(5, 3, requires_grad=True) for _ in range(2)]
    distance = feature_matching(fake, real, (2, 3))
    by_hand = [
        sum((a[rows] - b[rows]).abs().mean().item() for a, b in zip(fake, real, strict=True)) / 2
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert distance.tolist() == pytest.approx(by_hand, rel=1e-5)
    distance.sum().backward()
    assert all(part.grad is not None for part in fake) and all(part.grad is None for part in real)


def test_the_arms_are_the_columns_of_the_papers_table():
    assert ARMS["apt"].pairing == "non_saturating" and ARMS["apt"].r2 == 0 and ARMS["apt"].r1 == 1000
    assert all(arm.pairing == "rpgan" and arm.r1 == arm.r2 == 1000 for name, arm in ARMS.items() if name != "apt")
    weights = {name: (arm.l1, arm.feature_matching, arm.start) for name, arm in ARMS.items()}
    assert weights == {
        "apt": (0, 0, "teacher"),
        "rpgan": (0, 0, "teacher"),
        "+l1": (1, 0, "teacher"),
        "+fm": (1, 1, "teacher"),
        "full": (1, 1, "progressive"),
        "final": (0.1, 0.1, "progressive"),
    }
