"""The colour fix: low frequencies from the input, high frequencies from the restoration."""

import torch
import torch.nn.functional as F
from torch import Tensor


def wavelet(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """`content` with the low frequencies of `style`, both (T, 3, H, W) of the same size and range.

    Low means what is left after five dilated binomial blurs (dilations 1, 2, 4, 8, 16), as in the published pipeline.
    Two clips in [-1, 1] may leave that range a little: clip afterwards.
    """
    return content_TCHW + _low(style_TCHW - content_TCHW)  # the blur is linear


def _low(frames_TCHW: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0], device=frames_TCHW.device, dtype=frames_TCHW.dtype) / 4
    channels = frames_TCHW.shape[1]
    across, down = kernel.expand(channels, 1, 1, 3), kernel[:, None].expand(channels, 1, 3, 1)
    for dilation in (1, 2, 4, 8, 16):
        padded = F.pad(frames_TCHW, [dilation] * 4, mode="replicate")
        frames_TCHW = F.conv2d(padded, across, dilation=dilation, groups=channels)
        frames_TCHW = F.conv2d(frames_TCHW, down, dilation=dilation, groups=channels)
    return frames_TCHW
