"""The meters against skimage, closed forms and planted faults."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics import psnr, seam_index, ssim

ROWS, COLUMNS = (24, 48), (32, 64)


@pytest.fixture
def picture() -> torch.Tensor:
    """Structure plus texture, (3, 72, 96) in [0.2, 0.8]."""
    y, x = torch.meshgrid(torch.linspace(0, 9, 72), torch.linspace(0, 12, 96), indexing="ij")
    waves = torch.stack([(y * x / 9).sin(), (y + x).cos(), (3 * y).sin()]) / 5
    return 0.5 + waves + 0.1 * (torch.rand(3, 72, 96, generator=torch.Generator().manual_seed(0)) - 0.5)


def noisy(picture: torch.Tensor, sigma: float, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return picture + sigma * noise


def with_seams(picture: torch.Tensor, height: float) -> torch.Tensor:
    """Every second window is brighter by `height`."""
    row, column = (
        torch.bucketize(torch.arange(n), torch.tensor(b), right=True) for n, b in ((72, ROWS), (96, COLUMNS))
    )
    return picture + height * ((row[:, None] + column) % 2)


def test_psnr_of_a_constant_error(picture):
    assert psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-4)
    assert psnr(picture, picture) == math.inf


def test_psnr_and_ssim_agree_with_skimage(picture):
    restored = noisy(picture, 0.05)
    assert psnr(restored, picture) == pytest.approx(
        peak_signal_noise_ratio(picture.double().numpy(), restored.double().numpy(), data_range=1)
    )
    grey = structural_similarity(
        picture[1].numpy(),
        restored[1].numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
    )
    assert ssim(restored[1:2].expand(3, -1, -1), picture[1:2].expand(3, -1, -1)) == pytest.approx(grey, abs=1e-6)
    assert ssim(picture, picture) == pytest.approx(1)


def test_a_clip_is_the_mean_of_its_frames(picture):
    frames = [noisy(picture, sigma, seed=i) for i, sigma in enumerate((0.02, 0.2))]
    clip, reference = torch.stack(frames, 1), torch.stack([picture, picture], 1)
    for metric in (psnr, ssim):
        assert metric(clip, reference) == pytest.approx(sum(metric(frame, picture) for frame in frames) / 2)


def test_noise_alone_shows_no_seam(picture):
    indices = seam_index(noisy(picture, 0.05), picture, noisy(picture, 0.1, seed=2), (ROWS, COLUMNS))
    assert indices == pytest.approx((1, 1), abs=0.15)


def test_planted_seams_are_found_and_ordered(picture):
    unwindowed = noisy(picture, 0.05, seed=2)
    levels = [
        seam_index(with_seams(noisy(picture, 0.05), h), picture, unwindowed, (ROWS, COLUMNS))
        for h in (0, 0.03, 0.06, 0.12)
    ]
    for axis in zip(*levels, strict=True):
        assert list(axis) == sorted(axis)
        assert axis[-1] > 1.5 * axis[0]


def test_an_edge_of_the_content_under_a_border_is_divided_out(picture):
    edge = 0.3 * (torch.arange(96) >= COLUMNS[0]).float()
    blurred_edge = picture + edge * 0.5  # both restorations get the edge equally wrong
    index = seam_index(noisy(blurred_edge, 0.05), picture + edge, noisy(blurred_edge, 0.05, 2), (ROWS, COLUMNS))
    assert index == pytest.approx((1, 1), abs=0.15)


def test_an_axis_without_borders_has_no_index(picture):
    rows, columns = seam_index(noisy(picture, 0.05), picture, noisy(picture, 0.1), ((), COLUMNS))
    assert math.isnan(rows) and columns > 0


@pytest.mark.parametrize("borders", [((20,), ()), ((), (0,)), ((72,), ())])
def test_borders_off_the_token_grid_are_refused(picture, borders):
    with pytest.raises(InputError, match="multiples of 8"):
        seam_index(picture + 0.1, picture, picture + 0.1, borders)


def test_pictures_of_two_shapes_are_refused(picture):
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match="one shape"):
            metric(picture[:, :-1], picture)
