"""Blur kernels of real-world degradation: (size, size), size odd, summing to 1.

The family of Real-ESRGAN (Wang et al. 2021, section 3.2): Gaussians and their generalisations with heavier or lighter
tails, plateaus, and the sinc that cuts off high frequencies and rings. Angles turn the first axis from right to down.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(size: int, sds: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """exp(-d^(2 beta) / 2) of the distance d in standard deviations `sds` (pixels) along the two turned axes.

    beta 1 is the Gaussian; above it flattens, below it has heavier tails, and `sds` are scales rather than deviations.
    """
    return _normalised(torch.exp(-0.5 * _squared_distance(size, sds, angle) ** beta))


def plateau(size: int, sds: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """1 / (1 + d^(2 beta)): flat in the middle, the flatter the larger beta."""
    return _normalised(1 / (1 + _squared_distance(size, sds, angle) ** beta))


def sinc(size: int, cutoff: float) -> Tensor:
    """The ideal low-pass of a round passband, cut to the window: it blurs and rings.

    Args:
        cutoff: in radians a pixel; at pi a period of two pixels just passes.
    """
    y, x = _offsets(size)
    radius = (x.square() + y.square()).sqrt()
    wave = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    return _normalised(wave.where(radius > 0, torch.tensor(cutoff**2 / (4 * math.pi), dtype=wave.dtype)))


def blur(frame_CHW: Tensor, kernel: Tensor) -> Tensor:
    """Every channel through the kernel, edges repeated: same size, frames of any size."""
    channels, reach = frame_CHW.shape[0], kernel.shape[-1] // 2
    padded = F.pad(frame_CHW[None], [reach] * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)[0]


def _offsets(size: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.meshgrid(places, places, indexing="ij")


def _squared_distance(size: int, sds: tuple[float, float], angle: float) -> Tensor:
    y, x = _offsets(size)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    return (along / sds[0]) ** 2 + (across / sds[1]) ** 2


def _normalised(kernel: Tensor) -> Tensor:
    return (kernel / kernel.sum()).float()
