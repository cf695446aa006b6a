"""What a causal video VAE keeps of clips: along time, by frequency, by motion; and what its latents look like.

Shapes as in model/vae.py; clips are in [0, 1], latents are those of `VideoVAE.to_latent`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi, sin

import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.lab.arms import interval, verdict
from seedvr2_lab.media.transform import padded_length
from seedvr2_lab.model.vae import VideoVAE


@torch.no_grad()
def influence(vae: VideoVAE, clip_CTHW: Tensor, frames: Sequence[int]) -> Tensor:
    """How much each latent frame changes, at most, when one of these video frames is made its negative: (frames, t)."""
    latent_CTHW = vae.to_latent(clip_CTHW[None])[0]
    rows = []
    for frame in frames:
        other_CTHW = clip_CTHW.clone()
        other_CTHW[:, frame] = 1 - other_CTHW[:, frame]
        rows.append((vae.to_latent(other_CTHW[None])[0] - latent_CTHW).abs().amax((0, 2, 3)))
    return torch.stack(rows)


@torch.no_grad()
def frames_back(vae: VideoVAE, frames: int, size: int = 8) -> int | None:
    """How many frames come back from a clip of `frames` empty frames; None if such a clip has no latent.

    On the meta device it computes shapes only, so the published layout answers at once.
    """
    clip_BCTHW = torch.zeros(1, vae.config.in_channels, frames, size, size, device=next(vae.parameters()).device)
    try:
        return vae.to_clips(vae.to_latent(clip_BCTHW)).shape[2]
    except InputError:
        return None


def padded(clip_CTHW: Tensor, factor: int) -> Tensor:
    """The clip with its last frame repeated until it has factor·n + 1 frames."""
    missing = padded_length(clip_CTHW.shape[1], factor) - clip_CTHW.shape[1]
    return torch.cat([clip_CTHW, clip_CTHW[:, -1:].expand(-1, missing, -1, -1)], 1)


@torch.no_grad()
def reconstruct(vae: VideoVAE, clip: Tensor) -> Tensor:
    """A picture (C, H, W) or a clip (C, T, H, W) through the VAE and back, clipped to [0, 1]."""
    clip_CTHW = clip[:, None] if clip.ndim == 3 else clip
    return vae.to_clips(vae.to_latent(clip_CTHW[None]))[0].clamp(0, 1).view_as(clip)


def band_errors(restored_CHW: Tensor, original_CHW: Tensor, edges: Sequence[float]) -> list[float]:
    """Energy of the error over energy of the original, for each band of frequencies between neighbouring edges.

    Args:
        restored_CHW, original_CHW: pictures; a Hann window hides that the left edge is no neighbour of the right.
        edges: in cycles a pixel, rising; each band holds its lower edge and not its upper one.
    """
    H, W = original_CHW.shape[1:]
    hann = [torch.hann_window(side, dtype=torch.float64) for side in (H, W)]
    wanted_CHW = original_CHW.double()
    lost_HW, held_HW = (
        torch.fft.fft2((each - each.mean((1, 2), keepdim=True)) * torch.outer(*hann)).abs().square().sum(0)
        for each in (restored_CHW.double() - wanted_CHW, wanted_CHW)
    )
    down, right = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (H, W))
    frequency_HW = torch.hypot(down[:, None], right)
    bands = [(frequency_HW >= low) & (frequency_HW < high) for low, high in pairwise(edges)]
    return [float(lost_HW[band].sum() / held_HW[band].sum()) for band in bands]


def grating(frequency: float, degrees: float, colors: Sequence[float], size: int = 96) -> Tensor:
    """A sine wave on grey, (3, size, size).

    Args:
        frequency: in cycles a pixel.
        degrees: direction in which the wave runs; 0 is to the right.
        colors: amplitudes of red, green and blue; at most 0.5.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = x * cos(degrees * pi / 180) + y * sin(degrees * pi / 180)
    # A quarter turn less than a whole one: at half a cycle a pixel a plain sine would meet its zeros only.
    wave = torch.sin(2 * pi * frequency * along + 0.75 * pi)
    return 0.5 + torch.tensor(colors)[:, None, None] * wave


def contrast_kept(vae: VideoVAE, wave_CHW: Tensor) -> float:
    """The share of a wave's amplitude that is still there, in phase, behind the VAE; borders are left out."""
    inner = (slice(None), slice(16, -16), slice(16, -16))
    wanted, found = ((each[inner] - 0.5).double() for each in (wave_CHW, reconstruct(vae, wave_CHW)))
    return float((found * wanted).sum() / wanted.square().sum())


def pan(picture_CHW: Tensor, speed: int, frames: int, size: int) -> Tensor:
    """A clip (C, frames, size, size) cut out of a picture that slides up by whole pixels a frame: nothing is resampled.

    The middle frame is the middle of the picture whatever the speed, so that speeds can be compared.
    """
    H, W = picture_CHW.shape[1:]
    if size + speed * (frames - 1) > H or size > W:
        raise InputError(f"a picture of {W}x{H} is too small for {frames} frames at {speed} pixels a frame: go slower")
    left, middle = (W - size) // 2, (H - size) // 2
    tops = [middle + speed * frame - speed * (frames - 1) // 2 for frame in range(frames)]
    return torch.stack([picture_CHW[:, top : top + size, left : left + size] for top in tops], 1)


def principal_picture(latent_CHW: Tensor) -> tuple[Tensor, Tensor]:
    """A latent frame as colours: its first three principal components as red, green and blue.

    Returns:
        The picture (h, w, 3) in [0, 1], each component stretched between its 1st and 99th percentile, and the share of
        the variance that each of the C components has, falling.
    """
    h, w = latent_CHW.shape[1:]
    rows = latent_CHW.double().flatten(1).T
    rows = rows - rows.mean(0)
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    components = rows @ directions[:3].T
    low, high = (components.quantile(q, 0) for q in (0.01, 0.99))
    picture = ((components - low) / (high - low)).clamp(0, 1)
    return picture.view(h, w, 3), sizes.square() / sizes.square().sum()


def judge(margins: Sequence[float]) -> str:
    """The `verdict` on "each margin is above 0 on average", by the interval over clips."""
    return verdict(interval(margins), +1, "laptop")
