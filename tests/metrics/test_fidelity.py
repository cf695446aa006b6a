"""PSNR and SSIM against scikit-image, pyiqa and closed forms."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics import psnr, ssim


def test_psnr_of_a_constant_error(picture):
    assert psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-4)
    assert psnr(picture, picture) == math.inf


def test_psnr_and_ssim_agree_with_skimage(picture, noisy):
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


def test_psnr_and_ssim_agree_with_pyiqa(photo, noisy):
    """On 8-bit pictures: pyiqa rounds to them for SSIM. To PSNR it adds 1e-8 to the error."""
    import pyiqa

    restored = (noisy(photo, 0.05).clamp(0, 1) * 255).round() / 255
    for own, name, limit in ((psnr, "psnr", 1e-4), (ssim, "ssimc", 1e-5)):
        theirs = float(pyiqa.create_metric(name, device="cpu")(restored[None], photo[None]))
        assert own(restored, photo) == pytest.approx(theirs, abs=limit)


def test_a_clip_is_the_mean_of_its_frames(picture, noisy):
    frames = [noisy(picture, sigma, seed=i) for i, sigma in enumerate((0.02, 0.2))]
    clip, reference = torch.stack(frames, 1), torch.stack([picture, picture], 1)
    for metric in (psnr, ssim):
        assert metric(clip, reference) == pytest.approx(sum(metric(frame, picture) for frame in frames) / 2)


def test_pictures_of_two_shapes_are_refused(picture):
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match="one shape"):
            metric(picture[:, :-1], picture)
