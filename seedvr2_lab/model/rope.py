"""Rotary position embedding inside windows: where a token sits in its window turns its query and key.

Two variants exist among the published models:

- "lang" (3B): video and text share one axis system; positions are whole numbers counted from the window's corner, and
  the video's time starts after the text. Text token i sits at (i, i, i).
- "pixel" (7B): video only; each window spans [-1, 1] on every axis, however small a clipped window is.

Every token sits in exactly one window of a layer, so q and k are turned once, before they are grouped into windows.

Legend: `P` packed tokens, `N` heads, `E` head width, `A` angles (pairs that turn, three axes together).
"""

from math import pi
from typing import Literal

import torch
from torch import Tensor, nn

RopeKind = Literal["lang", "pixel"]


def frequencies(kind: RopeKind, dim: int) -> Tensor:
    """Angles per unit of position on one axis, ((dim // 3) // 2,) float32: a third of `dim` features for each axis."""
    features = dim // 3
    if kind == "lang":
        return 1 / 10_000 ** (torch.arange(0, features - features % 2, 2, dtype=torch.float32) / features)
    return pi * torch.linspace(1, 128, features // 2)


def video_positions(window_shape: tuple[int, int, int], text_length: int, kind: RopeKind) -> Tensor:
    """Positions (t * h * w, 3) of a window's tokens, row-major, on the axes (t, h, w)."""
    if kind == "lang":
        axes = [torch.arange(extent, dtype=torch.float32) for extent in window_shape]
        axes[0] += text_length
    else:
        axes = [torch.linspace(-1, 1, extent) for extent in window_shape]
    return torch.cartesian_prod(*axes)


def text_positions(text_length: int, kind: RopeKind) -> Tensor | None:
    """Positions (text_length, 3) of a clip's text tokens; None where text is not turned."""
    if kind == "pixel":
        return None
    return torch.arange(text_length, dtype=torch.float32)[:, None].expand(-1, 3)


def rotate(x_PNE: Tensor, angles_PA: Tensor) -> Tensor:
    """Turn the adjacent features (2i, 2i + 1) of every head by angle i, at least in float32; features beyond 2 A stay.

    More axes may stand before the tokens; those of `x_PNE` and `angles_PA` broadcast.
    """
    rest = x_PNE.shape[-1] // 2 - angles_PA.shape[-1]
    angles_P1E = nn.functional.pad(angles_PA, (0, rest)).unsqueeze(-2)  # a turn by 0 saves cutting and joining
    turn_P1E = torch.polar(torch.ones_like(angles_P1E), angles_P1E)
    precise = x_PNE.to(torch.promote_types(x_PNE.dtype, torch.float32))
    pairs = torch.view_as_complex(precise.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn_P1E).flatten(-2).to(x_PNE.dtype)


class Frequencies(nn.Module):
    """Holder of the `freqs` buffer; published checkpoints store it, so it is persistent.

    It stays in float32 when its model is cast: in bfloat16 the last token of a window would be off by a tenth of a
    radian.
    """

    def __init__(self, kind: RopeKind, dim: int):
        super().__init__()
        self.register_buffer("freqs", frequencies(kind, dim))

    def _apply(self, fn, recurse=True):
        precise = self.freqs
        super()._apply(fn, recurse)
        if self.freqs.dtype != precise.dtype:
            self.freqs = precise.to(self.freqs.device)
        return self


class WindowRope(nn.Module):
    """Turns queries and keys by the angles position * freqs. Only the angles in use are computed, no table."""

    def __init__(self, kind: RopeKind, dim: int):
        super().__init__()
        self.rope = Frequencies(kind, dim)  # the extra level keeps the published name rope.rope.freqs

    def angles(self, positions_P3: Tensor) -> Tensor:
        """(P, A) float32, the axes t, h, w one after the other."""
        return (positions_P3.unsqueeze(-1) * self.rope.freqs.float()).flatten(-2)

    def forward(self, q_PNE: Tensor, k_PNE: Tensor, positions_P3: Tensor | None) -> tuple[Tensor, Tensor]:
        """q and k, turned; unchanged if `positions_P3` is None."""
        if positions_P3 is None:
            return q_PNE, k_PNE
        angles_PA = self.angles(positions_P3)
        return rotate(q_PNE, angles_PA), rotate(k_PNE, angles_PA)
