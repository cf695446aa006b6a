"""The straight path between a clean latent and noise (linear schedule), and the ways along it.

On the path x_t = A x_0 + B x_T with A = 1 - t / 1000, B = t / 1000 the network predicts the velocity v = x_T - x_0.
All functions are pure. Latents are (C, T, H, W) or (B, C, T, H, W); a time is in [0, 1000], one number or one per clip.

Legend: `x_0` clean latent, `x_T` noise, `x_t` in between; `B` clips, `C` channels, `T H W` latent frames/height/width.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from seedvr2_lab.console import InputError

T_MAX = 1000.0
CHANNELS = -4  # axis of both layouts

Velocity = Callable[[Tensor, float], Tensor]  # (x_t, time) -> v


def mix(clean: Tensor, noise: Tensor, time: Tensor | float) -> Tensor:
    """The point x_t of the path from `clean` (time 0) to `noise` (time 1000)."""
    b = _fraction(time, clean)
    return (1 - b) * clean + b * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """What the network should predict anywhere between `clean` and `noise`."""
    return noise - clean


def clean_from_velocity(x: Tensor, velocity: Tensor, time: Tensor | float) -> Tensor:
    """x_0 as seen from x_t and v."""
    return x - _fraction(time, x) * velocity


def noise_from_velocity(x: Tensor, velocity: Tensor, time: Tensor | float) -> Tensor:
    """x_T as seen from x_t and v."""
    return x + (1 - _fraction(time, x)) * velocity


def euler_step(x: Tensor, velocity: Tensor, time: Tensor | float, until: Tensor | float) -> Tensor:
    """From x at `time` along the velocity to `until`."""
    return x + (_fraction(until, x) - _fraction(time, x)) * velocity


def sampling_times(steps: int) -> list[float]:
    """Times at which a sampler of so many steps asks the network: 1000 (1, 1 - 1/n, ..., 1/n)."""
    if steps < 1:
        raise InputError(f"sampling steps are {steps}: give at least 1")
    return [T_MAX * (steps - i) / steps for i in range(steps)]


def sample(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Euler's method from noise to a clean latent; with one step x_0 = noise - v(noise, 1000)."""
    x = noise
    for time, until in pairwise([*sampling_times(steps), 0.0]):
        x = euler_step(x, velocity(x, time), time, until)
    return x


def one_step(dit: Callable, noise: Tensor, condition: Tensor, text: Tensor) -> Tensor:
    """The restored latent in one call of the network, the paper's purpose."""
    return sample(conditioned(dit, condition, text), noise, steps=1)


def conditioned(
    dit: Callable,
    condition: Tensor,
    text: Tensor,
    negative_text: Tensor | None = None,
    scale: float = 1.0,
    rescale: float = 0.0,
) -> Velocity:
    """The network as a velocity of x_t alone, with classifier-free guidance if `scale` is not 1.

    Args:
        dit: called as dit(clips, text, time).
        condition: result of `build_condition`, of the layout of x_t.
        text, negative_text: (L, C); the negative one only serves guidance.
        scale, rescale: see `guide`; at scale 1 the negative pass is skipped.
    """
    if scale != 1 and negative_text is None:
        raise InputError(f"guidance scale is {scale} without a negative text: give one or use scale 1")

    def velocity(x: Tensor, time: float) -> Tensor:
        clips = torch.cat([x, condition], dim=CHANNELS)
        clips = clips if x.ndim == 5 else clips[None]
        v = dit(clips, text, time)
        if scale != 1:
            v = guide(v, dit(clips, negative_text, time), scale, rescale)
        return v if x.ndim == 5 else v[0]

    return velocity


def guide(positive: Tensor, negative: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance, by `rescale` (0 to 1) drawn back to the positive prediction's contrast.

    The contrast is the standard deviation over channels at each latent pixel, as published (a consequence of the
    packed layout there; elsewhere it is taken over the whole picture).
    """
    v = negative + scale * (positive - negative)
    if rescale:
        ratio = positive.std(CHANNELS, keepdim=True) / v.std(CHANNELS, keepdim=True)
        v = v * (rescale * ratio + (1 - rescale))
    return v


def build_condition(latent: Tensor, noise: Tensor | None = None, noise_scale: float = 0.0) -> Tensor:
    """What the network sees beside x_t: the low-quality latent and a mask of ones, C + 1 channels.

    Args:
        latent: low-quality latent.
        noise: of the same shape; needed only for a `noise_scale` above 0.
        noise_scale: how far, from 0 to 1, the latent is noised first (0 in SeedVR2, 0.1 in SeedVR).
    """
    if noise_scale:
        C, _, H, W = latent.shape[-4:]
        # The published code reads the axes (h, w, channels) as (t, h, w) here; the trained weights know no other.
        latent = mix(latent, noise, shift_time(T_MAX * noise_scale, (H, W, C)))
    return torch.cat([latent, torch.ones_like(latent.narrow(CHANNELS, 0, 1))], dim=CHANNELS)


def shift_time(time: Tensor | float, latent_size: tuple[int, int, int]) -> Tensor | float:
    """The time at which a latent of this (t, h, w) has lost as much as a small one at `time`.

    Larger clips stand more noise. The shift is a straight line in the number of pixels (8 per latent pixel, 4 frames
    per latent frame), with other lines for pictures and clips. Sampling times are not shifted.
    """
    t, h, w = latent_size
    frames, pixels = (t - 1) * 4 + 1, 8 * h * 8 * w
    if frames > 1:
        low, high, highest = 256 * 256 * 37, 1280 * 720 * 145, 5.0
    else:
        low, high, highest = 256 * 256, 1024 * 1024, 3.2
    shift = 1 + (highest - 1) * (pixels * frames - low) / (high - low)
    u = time / T_MAX
    return T_MAX * shift * u / (1 + (shift - 1) * u)


def _fraction(time: Tensor | float, x: Tensor) -> Tensor | float:
    """B = time / 1000, shaped to broadcast over latents when there is one per clip."""
    if isinstance(time, Tensor) and time.ndim:
        time = time.view(-1, *[1] * (x.ndim - 1))
    return time / T_MAX
