"""How visible the borders of windows, tiles and chunks are.

The paper shows seams (section 3.2, Fig. 4) without a number, so these are our choice. Borders are given as the pixels
(or frames) that begin a window; 0 is no border.
"""

from collections.abc import Callable, Sequence
from math import nan
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics.fidelity import frames_of, frames_of_both

AXES = {"t": 0, "h": -2, "w": -1}  # of frames (T, C, H, W)


class BorderExcess(NamedTuple):
    """How many times worse it is at the borders than elsewhere; 1 is no trace of them, lower is better."""

    error: float
    jump: float


def seam_index(
    restored: Tensor,
    reference: Tensor,
    unwindowed: Tensor,
    borders: tuple[Sequence[int], Sequence[int]],
    token: int = 8,
) -> tuple[float, float]:
    """How much more the error jumps across window borders than across other token borders; 1 is no seam.

    The `jump` of `border_excess` for both axes of a frame.

    Args:
        restored, reference, unwindowed: of one shape, (C, H, W) or (C, T, H, W).
        borders: rows and columns of pixels that begin a window, multiples of `token`.
        token: pixels along the side of a token.

    Returns:
        The index across horizontal borders (rows) and across vertical ones (columns), each above 0; nan where an axis
        has no border, or no other token border to compare with.
    """
    return tuple(
        border_excess(restored, reference, unwindowed, places, axis, token).jump
        for axis, places in zip(("h", "w"), borders, strict=True)
    )


def border_excess(
    restored: Tensor,
    reference: Tensor,
    unwindowed: Tensor,
    borders: Sequence[int],
    axis: Literal["t", "h", "w"],
    spacing: int = 1,
) -> BorderExcess:
    """How much larger the error is beside borders, and how much more it jumps across them, than at other places.

    The error is restored - reference, its jump the mean absolute difference of the two pixels (frames) beside a border.
    A border may lie on an edge of the content by chance, so the same ratio of a restoration that knows no borders, such
    as the bicubic enlargement, is divided out.

    Args:
        restored, reference, unwindowed: of one shape, (C, H, W) or (C, T, H, W).
        borders: the pixels or frames along the axis that begin a window, a tile or a chunk.
        axis: "t" for chunks of frames, "h" for borders between rows, "w" for borders between columns.
        spacing: the other places are the multiples of it; borders are multiples too. Pixels along a token for windows,
            so that the grid of tokens, which has errors of its own, is not taken for seams.

    Returns:
        Two numbers above 0; nan without borders, without other places, or where `unwindowed` is the reference.
    """
    errors = [_error(clip, reference) for clip in (restored, unwindowed)]

    def excess(profile: Callable[[Tensor, int], Tensor]) -> float:
        found, content = (_ratio(profile(error, AXES[axis]), borders, spacing) for error in errors)
        return float(found / content)

    return BorderExcess(error=excess(_errors_beside), jump=excess(_jumps_across))


class ShiftConsistency(NamedTuple):
    """Mean absolute differences of two restorations of the same pixels, in [0, 1]; lower is better."""

    overall: float
    by_distance: dict[int, float]  # pixels to the nearest window border, the least of each group -> difference


def shift_consistency(
    restore: Callable[[Tensor], Tensor],
    low_CTHW: Tensor,
    shift: tuple[int, int],
    borders: Callable[[int, int], tuple[Sequence[int], Sequence[int]]],
    group: int = 8,
    margin: int = 16,
) -> ShiftConsistency:
    """Whether a pixel is restored alike when the windows lie elsewhere: restores a clip and the same clip, shifted.

    Both are crops of `low_CTHW` of one size. Differences that are larger near a border are the windows' doing.

    Args:
        restore: (C, T, h, w) to (C, T, s*h, s*w) in [0, 1], for a whole number s.
        low_CTHW: (C, T, H, W).
        shift: rows and columns of low-quality pixels, less than half the clip. Whole tokens, so that only windows move.
        borders: from height and width of a restoration to the rows and the columns that begin a window.
        group: pixels of distance that are put together.
        margin: pixels along the edges of both restorations that are in no group: there every restorer lacks context.

    Returns:
        The mean over all that both restorations hold, and over groups of pixels by their distance to the nearest window
        border of either.
    """
    (H, W), (down, right) = low_CTHW.shape[-2:], shift
    if not (0 <= down < H / 2 and 0 <= right < W / 2 and down + right > 0):
        raise InputError(f"a shift is {shift} for frames of {H}x{W}: give two numbers below half of that, not both 0")
    first, second = (
        frames_of(restore(crop)) for crop in (low_CTHW[..., : H - down, : W - right], low_CTHW[..., down:, right:])
    )
    h, w = first.shape[-2:]
    scale = h // (H - down)
    down, right = scale * down, scale * right
    difference_HW = (first[..., down:, right:] - second[..., : h - down, : w - right]).abs().mean((0, 1))

    def distance(rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """To the nearest of these borders in either restoration, for each pixel that both hold."""
        y, x = _distance(h, rows), _distance(w, columns)
        y, x = torch.minimum(y[down:], y[: h - down]), torch.minimum(x[right:], x[: w - right])
        return torch.minimum(y[:, None], x)

    to_border = distance(*borders(h, w))
    inside = distance((0, h), (0, w)) >= margin
    groups = {int(least): inside & (to_border // group * group == least) for least in range(0, max(h, w), group)}
    return ShiftConsistency(
        float(difference_HW.mean()),
        {least: float(difference_HW[where].mean()) for least, where in groups.items() if where.any()},
    )


def _distance(extent: int, borders: Sequence[int]) -> Tensor:
    """From each of `extent` pixels to the nearest border, 0 beside it; larger than any if there are none."""
    places = torch.arange(extent)
    far = torch.full_like(places, 2**31)
    return torch.stack([far, *(torch.where(places < at, at - 1 - places, places - at) for at in borders)]).amin(0)


def _ratio(at: Tensor, borders: Sequence[int], spacing: int) -> Tensor:
    """Mean at the borders over the mean at the other places; at[i] belongs to a border in front of i + 1."""
    extent = len(at) + 1
    every = range(spacing, extent, spacing)
    if not set(borders) <= set(every):
        raise InputError(f"window borders are {sorted(borders)}: give multiples of {spacing} between 0 and {extent}")
    others = sorted(set(every) - set(borders))
    if not borders or not others:
        return at.new_tensor(nan)
    at_borders, elsewhere = (at[[place - 1 for place in places]].mean() for places in (sorted(set(borders)), others))
    return at_borders / elsewhere


def _jumps_across(error_TCHW: Tensor, axis: int) -> Tensor:
    """Between the pixels i and i + 1."""
    return error_TCHW.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)


def _errors_beside(error_TCHW: Tensor, axis: int) -> Tensor:
    """Of the pixels i and i + 1."""
    size = error_TCHW.abs().movedim(axis, 0).flatten(1).mean(1)
    return (size[:-1] + size[1:]) / 2


def _error(clip: Tensor, reference: Tensor) -> Tensor:
    clip, reference = frames_of_both(clip, reference)
    return clip - reference
