"""Trains a one-step generator by plain regression: the latent of the low-quality clip in, that of the high-quality
one out.

The simplest way to a one-step restorer, and the yardstick for the others. It uses the same network, the same call and
the same L1 in latent space as the adversarial recipe, without its discriminator. Our choice: the noise it starts from
is zero, the mean of the prior, since an average answer has no use for a random input.
"""

import torch
from torch import Tensor

from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.media.degrade import degrade, resize
from seedvr2_lab.model.diffusion import build_condition, one_step
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.training.loop import Loss, TrainConfig

TINY = TrainConfig(steps=2000, learning_rate=2e-3, warmup=100)
BATCHES = ((16, 1), (16, 1), (16, 1), (6, 5))  # (clips, frames) of successive steps
CROP = 128


@torch.no_grad()
def latent_pair(vae: VideoVAE, video_BCTHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scaled latents of clips in [0, 1] and of their degraded and resized twins, each (B, C, t, h, w)."""
    size = tuple(video_BCTHW.shape[-2:])
    low = [resize(degrade(clip, generator).transpose(0, 1), size).transpose(0, 1) for clip in video_BCTHW]
    both = torch.cat([video_BCTHW, torch.stack(low)]) * 2 - 1
    latents = vae.encode(both, sample=False) * vae.config.scaling_factor
    return tuple(latents.float().chunk(2))


def regression_loss(vae: VideoVAE, text_LD: Tensor) -> Loss:
    """Mean absolute error between the restored and the true latent."""

    def loss(dit: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch, frames = BATCHES[step % len(BATCHES)]
        video = sample_clips("training", batch, frames, (CROP, CROP), generator)
        high, low = latent_pair(vae, video, generator)
        restored = one_step(dit, torch.zeros_like(low), build_condition(low), text_LD)
        l1 = (restored - high).abs().mean()
        return {"loss": l1}

    return loss
