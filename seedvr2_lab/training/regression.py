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

TINY = (  # two cycles; the second one sees new crops
    TrainConfig(steps=1150, learning_rate=2e-3, warmup=100),
    TrainConfig(steps=480, learning_rate=1.2e-3, warmup=30, seed=1, checkpoint_every=60),
)
BATCHES = ((16, 1), (16, 1), (16, 1), (6, 5))  # (clips, frames) of successive steps
CROP = 128


def low_quality(clip_CTHW: Tensor, generator: torch.Generator) -> Tensor:
    """A clip in [0, 1] made worse and enlarged to its size again: what a restorer is given."""
    small_TCHW = degrade(clip_CTHW, generator).transpose(0, 1)
    return resize(small_TCHW, tuple(clip_CTHW.shape[2:])).transpose(0, 1)


@torch.no_grad()
def latent_pair(vae: VideoVAE, clips_BCTHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents of the low-quality twins of clips in [0, 1], and of the clips themselves, each (B, C, t, h, w)."""
    with torch.autocast("cpu", enabled=False):  # a training step's autocast is for networks, not for pictures
        low = torch.stack([low_quality(clip, generator) for clip in clips_BCTHW])
    device = next(vae.parameters()).device
    return tuple(vae.to_latent(torch.cat([low, clips_BCTHW]).to(device)).float().chunk(2))


def restore_latent(dit: DiT, low_BCTHW: Tensor, text_LD: Tensor) -> Tensor:
    """One call at time 1000, from zeros instead of noise."""
    return one_step(dit, torch.zeros_like(low_BCTHW), build_condition(low_BCTHW), text_LD)


def regression_loss(vae: VideoVAE, text_LD: Tensor) -> Loss:
    """Mean absolute error between the restored and the true latent."""

    def loss(dit: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch, frames = BATCHES[step % len(BATCHES)]
        clips = sample_clips("training", batch, frames, (CROP, CROP), generator)
        low, high = latent_pair(vae, clips, generator)
        return {"loss": (restore_latent(dit, low, text_LD) - high).abs().mean()}

    return loss
