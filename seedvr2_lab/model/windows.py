"""Which tokens attend to each other: adaptive windows (the paper's section 3.2, Eq. 1 and 2) and alternatives.

Everything here is whole numbers: a grid (T, H, W) of tokens goes in, a list of boxes comes out. Each transformer layer
attends inside boxes; even layers use the regular partition, odd layers one shifted by half a window, so that borders
never coincide. There is no wrap-around and no mask: boxes at the border of the grid are simply smaller.

Axis order is (t, h, w).
"""

from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil, sqrt
from typing import Literal, get_args

from seedvr2_lab.console import InputError

Kind = Literal["adaptive", "fixed", "unscaled", "global"]
Size = tuple[int, int, int]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class WindowScheme:
    """How large the windows are. The defaults are those of the published models.

    kind "adaptive": windows the grid would have if it were scaled to the reference area (Eq. 2), applied unscaled.
    kind "fixed":    windows of `size` tokens everywhere, as in SeedVR.
    kind "unscaled": the grid itself divided by `counts`, the formula used in training (Eq. 1), at any resolution.
    kind "global":   one window, full attention.
    """

    kind: Kind = "adaptive"
    counts: Size = (4, 3, 3)  # windows along t, h, w ("adaptive", "unscaled")
    reference: tuple[int, int] = (45, 80)  # tokens along h, w of the training resolution, 720p ("adaptive")
    max_frames: int = 30  # the temporal window stops growing here ("adaptive", "unscaled")
    size: Size | None = None  # tokens along t, h, w of one window ("fixed")

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise InputError(f"window kind {self.kind!r} is unknown: choose one of {', '.join(get_args(Kind))}")
        if (self.kind == "fixed") != (self.size is not None):
            raise InputError(f"window size is {self.size} with kind {self.kind!r}: give a size with kind 'fixed' only")
        _set_sizes(self, "counts", 3)
        _set_sizes(self, "reference", 2)
        _check_sizes("window max_frames", (self.max_frames,), 1)
        if self.size is not None:
            _set_sizes(self, "size", 3)


def window_size(grid: Size, scheme: WindowScheme) -> Size:
    """Tokens along (t, h, w) of an unclipped window on a grid of (T, H, W) tokens; may exceed the grid."""
    grid = _check_sizes("token grid", grid, 3)
    if scheme.kind == "global":
        return grid
    if scheme.kind == "fixed":
        return scheme.size
    T, H, W = grid
    if scheme.kind == "adaptive":
        scale = sqrt(scheme.reference[0] * scheme.reference[1] / (H * W))
        H, W = round(H * scale), round(W * scale)  # Python's round: half to even, as published
    frames = min(T, scheme.max_frames)
    # A strip narrower than half a scaled token would get a window of 0 tokens; it gets 1.
    return tuple(max(1, ceil(extent / count)) for extent, count in zip((frames, H, W), scheme.counts, strict=True))


def partition(grid: Size, scheme: WindowScheme, shifted: bool) -> list[Window]:
    """Boxes of tokens that together hold every token of the grid exactly once.

    Args:
        grid: tokens along (T, H, W).
        scheme: how large the windows are.
        shifted: move the borders by half a window on every axis that has more than one window (odd layers).

    Returns:
        (slice_t, slice_h, slice_w) per window in the published order: w outermost, then h, t fastest.
    """
    size = window_size(grid, scheme)
    cells_t, cells_h, cells_w = (_cells(extent, width, shifted) for extent, width in zip(grid, size, strict=True))
    return [(t, h, w) for w, h, t in product(cells_w, cells_h, cells_t)]


def _cells(extent: int, width: int, shifted: bool) -> list[slice]:
    """Cut one axis of `extent` tokens into cells of `width`; the shifted cut begins with a cell of width // 2."""
    if not shifted or width >= extent:
        borders = range(width, extent, width)
    else:  # (k + 1/2) * width, truncated
        borders = ((2 * k + 1) * width // 2 for k in range(extent // width + 1))
    # The set drops empty cells: the first one of a window of 1 token, and one that would begin where the axis ends.
    borders = sorted({0, extent, *(min(border, extent) for border in borders)})
    return [slice(start, stop) for start, stop in pairwise(borders)]


def _check_sizes(name: str, sizes, length: int) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if len(sizes) != length or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
        raise InputError(f"{name} is {sizes}: give {length} positive whole number{'s' if length > 1 else ''}")
    return sizes


def _set_sizes(scheme: WindowScheme, field: str, length: int) -> None:
    """Check a field and store it as a tuple, so that lists from JSON or a notebook's parameters stay hashable."""
    object.__setattr__(scheme, field, _check_sizes(f"window {field}", getattr(scheme, field), length))
