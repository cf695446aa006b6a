"""Blur kernels against their definitions: sums, moments, angles, limits and frequency responses."""

import math

import pytest
import torch

from seedvr2_lab.media.kernels import blur, gaussian, plateau, sinc


@pytest.mark.parametrize("size", [7, 21])
@pytest.mark.parametrize(
    "kernel",
    [
        lambda size: gaussian(size, (0.2, 3.0), 0.4),
        lambda size: gaussian(size, (2.0, 1.0), 2.0, 0.5),
        lambda size: gaussian(size, (0.2, 0.2), 0.0, 4.0),
        lambda size: plateau(size, (3.0, 0.5), -1.0, 2.0),
        lambda size: sinc(size, math.pi / 3),
    ],
)
def test_kernels_sum_to_1_and_do_not_move_the_picture(kernel, size):
    weights = kernel(size)
    assert weights.shape == (size, size) and weights.isfinite().all()
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(weights, weights.flip(0, 1))


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2, -2.5])
def test_a_gaussian_has_the_moments_and_the_angle_asked_for(angle):
    weights = gaussian(61, (5.0, 2.0), angle).double()
    y, x = torch.meshgrid(torch.arange(61) - 30.0, torch.arange(61) - 30.0, indexing="ij")
    c, s = math.cos(angle), math.sin(angle)
    expected = {"xx": 25 * c * c + 4 * s * s, "yy": 25 * s * s + 4 * c * c, "xy": 21 * c * s}
    measured = {"xx": (weights * x * x).sum(), "yy": (weights * y * y).sum(), "xy": (weights * x * y).sum()}
    assert measured == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kernel", [gaussian, plateau])
def test_large_beta_is_an_even_disc(kernel):
    weights = kernel(41, (10.5, 10.5), 0.0, 2000.0)
    inside = weights > weights.max() / 2
    assert inside.sum() == pytest.approx(math.pi * 10.5**2, rel=0.03)
    assert weights[inside].min() == pytest.approx(float(weights.max()), rel=1e-3) and weights[~inside].max() < 1e-5


def test_beta_by_hand():
    """At one and at two deviations from the middle."""
    heavy, flat = gaussian(9, (2.0, 2.0), 0.0, 0.5)[4], plateau(9, (2.0, 2.0), 0.0, 1.5)[4]
    assert (heavy[[6, 8]] / heavy[4]).tolist() == pytest.approx([math.exp(-0.5), math.exp(-1)], rel=1e-5)
    assert (flat[[6, 8]] / flat[4]).tolist() == pytest.approx([1 / 2, 1 / 9], rel=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2])
def test_a_sinc_passes_low_frequencies_in_all_directions_and_stops_high_ones(angle):
    weights = sinc(101, math.pi / 2).double()
    y, x = torch.meshgrid(torch.arange(101) - 50.0, torch.arange(101) - 50.0, indexing="ij")

    def response(frequency):
        wave = torch.cos(frequency * (x * math.cos(angle) + y * math.sin(angle)))
        return float((weights * wave).sum())

    assert [response(part * math.pi) for part in (0.2, 0.4)] == pytest.approx([1, 1], abs=0.06)
    assert [response(part * math.pi) for part in (0.6, 0.9)] == pytest.approx([0, 0], abs=0.06)


def test_blurring_a_point_shows_the_kernel_and_leaves_even_frames_of_any_size():
    point = torch.zeros(3, 15, 15)
    point[1, 7, 7] = 1
    weights = gaussian(9, (3.0, 1.0), 0.8)
    blurred = blur(point, weights)
    torch.testing.assert_close(blurred[1, 3:12, 3:12], weights)
    assert not blurred[[0, 2]].any()
    for size in [(1, 1), (1, 30), (5, 2)]:
        even = torch.full((3, *size), 0.4)
        torch.testing.assert_close(blur(even, plateau(21, (3.0, 3.0))), even)
