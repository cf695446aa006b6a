"""Trains a one-step generator by plain regression: the latent of the low-quality clip in, that of the high-quality
one out.

The simplest way to a one-step restorer, and the yardstick for the others. It uses the same network, the same call and
the same L1 in latent space as the adversarial recipe, without its discriminator. Our choice: the noise it starts from
is zero, the mean of the prior, since an average answer has no use for a random input.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seedvr2_lab.model.diffusion import build_condition, one_step
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.training.loop import Loss, TrainConfig
from seedvr2_lab.training.pairs import Pairs, encode_pairs

TINY = TrainConfig(steps=3600, learning_rate=4e-3, warmup=100, muon=True)
CROP = 128
POOLS = {1: 3072, 5: 768}  # frames of a clip -> pairs
BATCHES = ((16, 1), (16, 1), (16, 1), (6, 5))  # (clips, frames) of successive steps


def restore_latent(dit: DiT, low_BCTHW: Tensor, text_LD: Tensor) -> Tensor:
    """One call at time 1000, from zeros instead of noise."""
    return one_step(dit, torch.zeros_like(low_BCTHW), build_condition(low_BCTHW), text_LD)


def tiny_batches(vae: VideoVAE, folder: Path | None = None) -> list[tuple[Pairs, int]]:
    """What `tiny` learns from: pictures, and a step of clips in every four. `folder` as in `encode_pairs`."""
    pools = {frames: encode_pairs(vae, count, frames, (CROP, CROP), folder=folder) for frames, count in POOLS.items()}
    return [(pools[frames], clips) for clips, frames in BATCHES]


def regression_loss(batches: Sequence[tuple[Pairs, int]], text_LD: Tensor) -> Loss:
    """Mean absolute error between the restored and the true latent.

    Successive steps go round `batches`, each a pool and how many pairs to draw from it.
    """

    def loss(dit: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        pool, count = batches[step % len(batches)]
        device = next(dit.parameters()).device
        low_BCTHW, high_BCTHW = pool.draw(count, generator, device)
        return {"loss": (restore_latent(dit, low_BCTHW, text_LD.to(device)) - high_BCTHW).abs().mean()}

    return loss
