"""What counts as good: the distance from the original, and how visible the borders of the windows are.

Pictures are (C, H, W) and clips (C, T, H, W), RGB in [0, 1]; all results are plain numbers.
"""

from collections.abc import Sequence
from math import nan

import numpy as np
from einops import rearrange
from torch import Tensor

from seedvr2_lab.console import InputError


def psnr(restored: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over frames: higher is better, infinite for equal frames."""
    restored, reference = _frames(restored, reference)
    return float((-10 * (restored - reference).square().mean((1, 2, 3)).log10()).mean())


def ssim(restored: Tensor, reference: Tensor) -> float:
    """Structural similarity, the mean over frames and colours: at most 1, higher is better.

    With the settings of the authors (Wang et al. 2004): a Gaussian of sigma 1.5, so frames of at least 11x11 pixels.
    """
    from skimage.metrics import structural_similarity

    def of_frame(restored_CHW: Tensor, reference_CHW: Tensor) -> float:
        a, b, window = restored_CHW.numpy(), reference_CHW.numpy(), {"gaussian_weights": True, "sigma": 1.5}
        return structural_similarity(a, b, **window, use_sample_covariance=False, channel_axis=0, data_range=1.0)

    return float(np.mean([of_frame(*pair) for pair in zip(*_frames(restored, reference), strict=True)]))


def seam_index(
    restored: Tensor,
    reference: Tensor,
    unwindowed: Tensor,
    borders: tuple[Sequence[int], Sequence[int]],
    token: int = 8,
) -> tuple[float, float]:
    """How much more the error jumps across window borders than across other token borders; 1 is no seam.

    The error is restored - reference, its jump the mean absolute difference of the two pixels beside a border. A border
    may lie on an edge of the content by chance, so the same ratio of a restoration that knows no windows, such as the
    bicubic enlargement, is divided out. Our choice: the paper shows seams (section 3.2, Fig. 4) without a number.

    Args:
        restored, reference, unwindowed: of one shape.
        borders: rows and columns of pixels that begin a window, multiples of `token` (0 is no border).
        token: pixels along the side of a token.

    Returns:
        The index across horizontal borders (rows) and across vertical ones (columns); nan where an axis has no border,
        or no other token border to compare with.
    """
    error, reference_error = (_error(picture, reference) for picture in (restored, unwindowed))
    return tuple(
        _jump_ratio(error, axis, places, token) / _jump_ratio(reference_error, axis, places, token)
        for axis, places in zip((-2, -1), borders, strict=True)
    )


def _jump_ratio(error: Tensor, axis: int, borders: Sequence[int], token: int) -> float:
    """Mean jump at the borders over the mean jump at the other token borders."""
    extent = error.shape[axis]
    every = range(token, extent, token)
    if not set(borders) <= set(every):
        raise InputError(f"window borders are {sorted(borders)}: give multiples of {token} between 0 and {extent}")
    others = sorted(set(every) - set(borders))
    if not borders or not others:
        return nan
    jumps = error.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)  # jumps[i] is between pixels i and i + 1
    at_borders, elsewhere = (jumps[[place - 1 for place in places]].mean() for places in (sorted(set(borders)), others))
    return float(at_borders / elsewhere)


def _error(picture: Tensor, reference: Tensor) -> Tensor:
    picture, reference = _frames(picture, reference)
    return picture - reference


def _frames(restored: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (T, C, H, W) in float64 on the CPU."""
    if restored.shape != reference.shape or restored.ndim not in (3, 4):
        shapes = f"{tuple(restored.shape)} and {tuple(reference.shape)}"
        raise InputError(f"pictures to compare are {shapes}: give two of one shape, (C, H, W) or (C, T, H, W)")
    layout = "C H W -> 1 C H W" if restored.ndim == 3 else "C T H W -> T C H W"
    return tuple(rearrange(picture.detach().cpu().double(), layout) for picture in (restored, reference))
