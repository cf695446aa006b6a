"""What changes from frame to frame and should not.

A flow is (T - 1, 2, H, W) in pixels, down and right: what frame t shows at p, frame t + 1 shows at p + flow. nan marks
what cannot be followed. It is known for clips of `media.clips.camera_path` and estimated by `optical_flow` for others.
"""

from itertools import pairwise
from math import nan

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics.fidelity import frames_of, frames_of_both


def flicker(restored: Tensor, reference: Tensor, flow: Tensor | None = None) -> float:
    """How much the error changes from one frame to the next, a mean absolute difference: 0 is none, lower is better.

    An error that stays, however large, does not flicker. Our choice: the paper has no such number.

    Args:
        restored, reference: (C, T, H, W) in [0, 1].
        flow: follow the content. Without it an error that moves with the content, such as the blur of a moving edge,
            counts as flicker.

    Returns:
        Between 0 and 2; nan for a single frame.
    """
    restored, reference = frames_of_both(restored, reference)
    error = restored - reference
    if flow is None:
        return float(error.diff(dim=0).abs().mean()) if len(error) > 1 else nan
    return float((_next_along(error, flow) - error[:-1]).abs().nanmean())


def warping_error(clip: Tensor, flow: Tensor) -> float:
    """Mean squared difference between each frame and the next one warped back onto it: lower is steadier.

    The E_warp of the paper's Table 4, after Lai et al. 2018; tables usually give it in thousandths. Warning: whatever
    has no detail is steady. Bicubic enlargement wins that table, so never read this number without one for detail.

    Args:
        clip: the restoration, (C, T, H, W) in [0, 1].
        flow: of the original, (T - 1, 2, H, W).

    Returns:
        Between 0 and 1; nan if nothing can be followed. Warping is bicubic, which alone leaves some error in fine
        textures: compare with the original's own.
    """
    frames = frames_of(clip)
    return float((_next_along(frames, flow) - frames[:-1]).square().nanmean())


def optical_flow(clip: Tensor) -> Tensor:
    """Estimated flow of a clip (C, T, H, W) in [0, 1], by OpenCV's DIS (Kroeger et al. 2016), at least 16x16 pixels.

    nan where the flow back does not lead home, as in what becomes hidden (the criterion of Lai et al. 2018).
    """
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    frames = frames_of(clip)
    grey_THW = (frames.mean(1).clamp(0, 1) * 255).round().byte().numpy()

    def estimate(start: np.ndarray, end: np.ndarray) -> Tensor:
        """(2, H, W): OpenCV puts the flow to the right first."""
        return torch.from_numpy(dis.calc(start, end, None)).double().movedim(-1, 0).flip(0)

    flows = [torch.zeros(0, 2, *frames.shape[2:], dtype=torch.float64)]
    for now, after in pairwise(grey_THW):
        there, back = (estimate(*pair)[None] for pair in ((now, after), (after, now)))
        home = there + _sample(back, there)
        tolerance = 0.01 * (there.square().sum(1) + (home - there).square().sum(1)) + 0.5
        flows.append(there.masked_fill((home.square().sum(1) > tolerance)[:, None], nan))
    return torch.cat(flows)


def _next_along(frames_TCHW: Tensor, flow: Tensor) -> Tensor:
    """Frame t + 1 at p + flow, (T - 1, C, H, W); nan where that is unknown or outside of the frame."""
    T, _, H, W = frames_TCHW.shape
    if flow.shape != (T - 1, 2, H, W):
        raise InputError(f"the flow is {tuple(flow.shape)}: for {T} frames of {H}x{W} give {(T - 1, 2, H, W)}")
    return _sample(frames_TCHW[1:], flow.detach().cpu().double())


def _sample(frames_TCHW: Tensor, flow: Tensor) -> Tensor:
    """Frames read at p + flow by bicubic interpolation; nan where that is outside."""
    H, W = frames_TCHW.shape[2:]
    y = torch.arange(H, dtype=torch.float64)[:, None] + flow[:, 0]
    x = torch.arange(W, dtype=torch.float64) + flow[:, 1]
    known = (y >= 0) & (y <= H - 1) & (x >= 0) & (x <= W - 1)  # false for nan
    grid = torch.stack([(2 * x + 1) / W - 1, (2 * y + 1) / H - 1], -1).nan_to_num(0)
    sampled = F.grid_sample(frames_TCHW, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.masked_fill(~known[:, None], nan)
