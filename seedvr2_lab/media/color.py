"""Colour fixes: what a restoration takes from its input so that colours stay.

All take `content` and `style`, (T, 3, H, W) in [0, 1], of one size and in float32, and may leave the range a little:
clip afterwards. Statistics are those of single frames, so that no frame depends on how a clip is cut.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Linear RGB with the primaries of sRGB and BT.709 to XYZ, relative to the white D65 (IEC 61966-2-1).
XYZ = torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = torch.tensor([0.95047, 1.0, 1.08883])


def wavelet(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """`content` with the low frequencies of `style`; any number of channels and any range.

    Low means what is left after five dilated binomial blurs (dilations 1, 2, 4, 8, 16), as in the published pipeline.
    """
    return content_TCHW + _low(style_TCHW - content_TCHW)  # the blur is linear


def adain(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """`content` with the mean and the deviation that each channel has in `style` (Huang and Belongie 2017)."""
    (mean, deviation), (target_mean, target_deviation) = _statistics(content_TCHW), _statistics(style_TCHW)
    return (content_TCHW - mean) * (target_deviation / deviation) + target_mean


def lab(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """The same in CIELAB, where lightness and the two axes of colour are apart (Reinhard et al. 2001, who used another
    such space)."""
    return from_lab(adain(to_lab(content_TCHW), to_lab(style_TCHW)))


def none(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """`content` as it is."""
    return content_TCHW


FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"wavelet": wavelet, "lab": lab, "adain": adain, "none": none}


def to_lab(rgb_TCHW: Tensor) -> Tensor:
    """sRGB in [0, 1] (clipped to it) to CIELAB: L in [0, 100], a and b about [-100, 100]."""
    rgb = rgb_TCHW.clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("xc, tchw -> txhw", (XYZ / WHITE[:, None]).to(rgb), linear)
    bent = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = bent.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def from_lab(lab_TCHW: Tensor) -> Tensor:
    """The inverse; what no screen can show is clipped to [0, 1]."""
    lightness, a, b = lab_TCHW.unbind(1)
    y = (lightness + 16) / 116
    bent = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(bent > 6 / 29, bent**3, 3 * (6 / 29) ** 2 * (bent - 4 / 29))
    linear = torch.einsum("cx, txhw -> tchw", torch.linalg.inv(XYZ / WHITE[:, None]).to(xyz), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _statistics(frames_TCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each (T, C, 1, 1); an even frame counts as one of very little deviation."""
    flat = rearrange(frames_TCHW, "T C H W -> T C (H W)")
    variance, mean = torch.var_mean(flat, -1, correction=0, keepdim=True)
    return mean[..., None], (variance + 1e-8).sqrt()[..., None]


def _low(frames_TCHW: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0], device=frames_TCHW.device, dtype=frames_TCHW.dtype) / 4
    channels = frames_TCHW.shape[1]
    across, down = kernel.expand(channels, 1, 1, 3), kernel[:, None].expand(channels, 1, 3, 1)
    for dilation in (1, 2, 4, 8, 16):
        padded = F.pad(frames_TCHW, [dilation] * 4, mode="replicate")
        frames_TCHW = F.conv2d(padded, across, dilation=dilation, groups=channels)
        frames_TCHW = F.conv2d(frames_TCHW, down, dilation=dilation, groups=channels)
    return frames_TCHW
