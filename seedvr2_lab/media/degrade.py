"""Low quality from high quality: blur, shrink, noise and JPEG, as the real world would do it to a small picture.

One order of the usual recipe, with one set of parameters a clip. Everything is drawn from the generator, so the same
seed gives the same bytes.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Degradation:
    """Ranges that a clip's parameters are drawn from, uniformly."""

    scale: int = 4  # height and width of the high-quality clip over those of the low-quality one
    blur: tuple[float, float] = (0.2, 2.0)  # standard deviation of a Gaussian, in high-quality pixels
    noise: tuple[float, float] = (0.0, 0.03)  # standard deviation, of a full range of 1
    jpeg: tuple[int, int] = (60, 95)  # quality


def degrade(clip_CTHW: Tensor, generator: torch.Generator, degradation: Degradation = Degradation()) -> Tensor:
    """A low-quality twin of a clip in [0, 1]: (3, T, H, W) to (3, T, H/scale, W/scale), 8-bit levels.

    Height and width are cut to multiples of the scale at the right and the bottom before.
    """

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    frames_TCHW = clip_CTHW.transpose(0, 1)
    scale = degradation.scale
    H, W = (side - side % scale for side in frames_TCHW.shape[2:])
    frames_TCHW = _blur(frames_TCHW[:, :, :H, :W], draw(*degradation.blur))
    frames_TCHW = resize(frames_TCHW, (H // scale, W // scale))
    noise = torch.randn(frames_TCHW.shape, generator=generator)
    frames_TCHW = (frames_TCHW + draw(*degradation.noise) * noise).clamp(0, 1)
    quality = round(draw(*degradation.jpeg))
    return torch.stack([_jpeg(frame, quality) for frame in frames_TCHW], 1)


def resize(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, clamped to [0, 1]: the published pipeline's own resize, up and down."""
    if tuple(frames_TCHW.shape[-2:]) == tuple(size):
        return frames_TCHW
    return F.interpolate(frames_TCHW, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _blur(frames_TCHW: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(frames_TCHW.shape[1], 1, 1, -1)
    padded = F.pad(frames_TCHW, [radius] * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=kernel.shape[0])
    return F.conv2d(across, kernel.transpose(2, 3), groups=kernel.shape[0])


def _jpeg(frame_CHW: Tensor, quality: int) -> Tensor:
    pixels = (frame_CHW * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
