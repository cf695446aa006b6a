"""How far a restoration is from the original, pixel by pixel."""

import numpy as np
from einops import rearrange
from torch import Tensor

from seedvr2_lab.console import InputError


def psnr(restored: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over frames: higher is better, infinite for equal frames."""
    restored, reference = frames_of_both(restored, reference)
    return float((-10 * (restored - reference).square().mean((1, 2, 3)).log10()).mean())


def ssim(restored: Tensor, reference: Tensor) -> float:
    """Structural similarity, the mean over frames and colours: at most 1, higher is better.

    With the settings of the authors (Wang et al. 2004): a Gaussian of sigma 1.5, so frames of at least 11x11 pixels.
    """
    from skimage.metrics import structural_similarity

    def of_frame(restored_CHW: Tensor, reference_CHW: Tensor) -> float:
        a, b, window = restored_CHW.numpy(), reference_CHW.numpy(), {"gaussian_weights": True, "sigma": 1.5}
        return structural_similarity(a, b, **window, use_sample_covariance=False, channel_axis=0, data_range=1.0)

    return float(np.mean([of_frame(*pair) for pair in zip(*frames_of_both(restored, reference), strict=True)]))


def frames_of_both(restored: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (T, C, H, W) in float64 on the CPU."""
    if restored.shape != reference.shape or restored.ndim not in (3, 4):
        shapes = f"{tuple(restored.shape)} and {tuple(reference.shape)}"
        raise InputError(f"pictures to compare are {shapes}: give two of one shape, (C, H, W) or (C, T, H, W)")
    return frames_of(restored), frames_of(reference)


def frames_of(clip: Tensor) -> Tensor:
    """A picture (C, H, W) or a clip (C, T, H, W) as (T, C, H, W) in float64 on the CPU."""
    if clip.ndim not in (3, 4):
        raise InputError(f"a picture to measure is {tuple(clip.shape)}: give (C, H, W), or (C, T, H, W) for a clip")
    layout = "C H W -> 1 C H W" if clip.ndim == 3 else "C T H W -> T C H W"
    return rearrange(clip.detach().cpu().double(), layout)
