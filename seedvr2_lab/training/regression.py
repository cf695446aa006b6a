"""Trains a one-step generator by plain regression: the latent of the low-quality clip in, that of the high-quality
one out.

The simplest way to a one-step restorer, and the yardstick for the others. It uses the same network, the same call and
the same L1 in latent space as the adversarial recipe, without its discriminator. Our choice: the noise it starts from
is zero, the mean of the prior, since an average answer has no use for a random input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seedvr2_lab.model.diffusion import build_condition, one_step
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.training.loop import Loss
from seedvr2_lab.training.pairs import Pairs


def restore_latent(dit: DiT, low_BCTHW: Tensor, text_LD: Tensor) -> Tensor:
    """One call at time 1000, from zeros instead of noise."""
    return one_step(dit, torch.zeros_like(low_BCTHW), build_condition(low_BCTHW), text_LD)


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
