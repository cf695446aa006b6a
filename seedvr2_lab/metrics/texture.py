"""Whether a restoration has the textures of the original, wherever they lie.

To restore from very little is to guess, and a good guess puts each blade of grass elsewhere: distances pixel by pixel
prefer a blur to it. These meters compare statistics instead. They need no learned weights and stand in for LPIPS and
DISTS (the paper's Tables 1 and 3) where those can't be had. Our choice throughout.
"""

from functools import cache
from math import nan

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.metrics.fidelity import frames_of_both

ROUNDING = 1 / (255 * 12**0.5)  # standard deviation of the error of rounding to 8 bits: nothing weaker is a texture
HIGH = 1 / 8  # cycles a pixel: a frame that was made four times smaller holds nothing above
BLUR = 2.0  # pixels, sigma: takes away half of the power a little below HIGH
PATCH, STRIDE, DIRECTIONS = 7, 2, 64


def texture_distance(restored: Tensor, reference: Tensor) -> float:
    """Sliced Wasserstein distance between the high-pass patches of two clips: 0 is equal, lower is better.

    Every patch is a point, every frame a cloud of them. The clouds are seen from fixed random directions, and in each
    the distance is the mean difference of the sorted projections. The unit is the distance of a frame without texture,
    which therefore has 1. After Karras et al. 2018 (progressive GANs), with a Gaussian high-pass in place of a pyramid.
    Warning: random directions see how strong a texture is at which frequencies, less what it looks like. Repeated
    pixels and noise are nearer than a blur, so never read this number without one for the distance from the original.

    Args:
        restored, reference: (C, H, W) or (C, T, H, W) in [0, 1], at least 7x7 pixels.

    Returns:
        At least 0; above 1 only with far more texture than in the reference. nan if the reference has none.
    """
    distances, sizes = [], []
    for pair in zip(*frames_of_both(restored, reference), strict=True):
        found, wanted = (np.sort(_projections(frame), axis=1) for frame in pair)
        distances.append(np.abs(found - wanted).mean(dtype=np.float64))
        sizes.append(np.abs(wanted).mean(dtype=np.float64))
    return float(np.mean(distances) / np.mean(sizes)) if np.mean(sizes) > ROUNDING else nan


def spectrum_distance(restored: Tensor, reference: Tensor) -> float:
    """Mean distance of the radial power spectra in dB, the mean over frames: 0 is equal, lower is better.

    All frequencies count alike, up to half a cycle a pixel. Power below that of rounding to 8 bits counts as that.

    Args:
        restored, reference: (C, H, W) or (C, T, H, W) in [0, 1], at least 8x8 pixels.
    """
    levels = [10 * _radial(power).clamp(min=ROUNDING**2).log10() for power in _powers(restored, reference)]
    return float((levels[0] - levels[1]).abs().mean())


def high_frequency_ratio(restored: Tensor, reference: Tensor) -> float:
    """Energy above 1/8 cycle a pixel over that of the reference: below 1 is blur, above 1 noise or sharpening.

    A blur has next to none of what a x4 reduction took away; an adversarial loss is there to bring it back.

    Args:
        restored, reference: (C, H, W) or (C, T, H, W) in [0, 1], at least 8x8 pixels.

    Returns:
        At least 0; the sums are over the clip. nan if the reference has no more than rounding to 8 bits leaves.
    """
    found, wanted = (power[:, _frequencies(*power.shape[1:]) > HIGH] for power in _powers(restored, reference))
    return float(found.sum() / wanted.sum()) if wanted.mean() > ROUNDING**2 else nan


def _projections(frame_CHW: Tensor) -> np.ndarray:
    """Of the high-pass patches of a frame, (DIRECTIONS, patches) in float32."""
    from skimage.filters import gaussian

    high = frame_CHW - torch.from_numpy(gaussian(frame_CHW.numpy(), BLUR, mode="nearest", channel_axis=0))
    return F.conv2d(high.float(), _directions(len(high)), stride=STRIDE).flatten(1).numpy()


@cache
def _directions(channels: int) -> Tensor:
    """Unit vectors in the space of patches, the same at every call."""
    directions = torch.randn(DIRECTIONS, channels, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    return directions / directions.flatten(1).norm(dim=1)[:, None, None, None]


def _powers(restored: Tensor, reference: Tensor) -> list[Tensor]:
    """The mean power spectrum over colours of both, each (T, H, W); white noise has its variance everywhere."""
    H, W = restored.shape[-2:]
    window = torch.hann_window(H, dtype=torch.float64)[:, None] * torch.hann_window(W, dtype=torch.float64)
    powers = []
    for frames_TCHW in frames_of_both(restored, reference):
        centered = frames_TCHW - frames_TCHW.mean((-2, -1), keepdim=True)
        spectrum = torch.fft.fft2(centered * window)  # the window hides that the left edge is no neighbour of the right
        powers.append(spectrum.abs().square().mean(1) / window.square().sum())
    return powers


def _radial(power_THW: Tensor) -> Tensor:
    """Means over rings of one width from the third frequency to half a cycle a pixel, (T, rings).

    The first two hold what the window spreads of the slow changes of brightness.
    """
    H, W = power_THW.shape[1:]
    rings = min(H, W) // 2
    ring = (_frequencies(H, W) * 2 * rings).round().long().flatten().clamp(max=rings + 1)
    sums = torch.zeros(len(power_THW), rings + 2, dtype=torch.float64).index_add_(1, ring, power_THW.flatten(1))
    return (sums / ring.bincount(minlength=rings + 2))[:, 3 : rings + 1]


def _frequencies(H: int, W: int) -> Tensor:
    """Of each entry of a spectrum, in cycles a pixel, (H, W)."""
    return torch.hypot(torch.fft.fftfreq(H, dtype=torch.float64)[:, None], torch.fft.fftfreq(W, dtype=torch.float64))
