"""The losses of adversarial post-training (the paper's section 3.3 and Table 3), pure and one number per clip.

Nothing here is averaged over the batch and nothing calls backward: the training steps weigh, reduce and differentiate.
Logits are (B,); clips are latents (B, C, T, H, W) or a list of (C, T, H, W), conditioning is the caller's business:
a critic is any function from clips to logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.model.dit import Clips

Critic = Callable[[Clips], Tensor]
Pairing = Literal["rpgan", "non_saturating"]


def discriminator_loss(real_B: Tensor, fake_B: Tensor, pairing: Pairing) -> Tensor:
    """What the discriminator minimises.

    `rpgan` (Jolicoeur-Martineau 2018, as in R3GAN; the paper's choice) asks that a real clip scores higher than the
    fake of the same place in the batch. `non_saturating` (Goodfellow 2014; APT's choice) judges both alone.
    """
    if pairing == "rpgan":
        return F.softplus(fake_B - real_B)
    return F.softplus(-real_B) + F.softplus(fake_B)


def generator_loss(real_B: Tensor, fake_B: Tensor, pairing: Pairing) -> Tensor:
    """What the generator minimises; `non_saturating` does not look at the real logits."""
    if pairing == "rpgan":
        return F.softplus(real_B - fake_B)
    return F.softplus(-fake_B)


def exact_penalty(critic: Critic, clips: Clips) -> Tensor:
    """R1 on real clips, R2 on fake ones: the squared norm of the critic's gradient at each clip, (B,).

    Keeps the graph for the second backward pass, which attention has on its reference path only. Clips of a batch must
    not influence each other's logits.
    """
    parts = [clips] if isinstance(clips, Tensor) else list(clips)
    parts = [part.detach().requires_grad_() for part in parts]
    logits_B = critic(parts[0] if isinstance(clips, Tensor) else parts)
    gradients = torch.autograd.grad(logits_B.sum(), parts, create_graph=True)
    if isinstance(clips, Tensor):
        return gradients[0].square().flatten(1).sum(1)
    return torch.stack([gradient.square().sum() for gradient in gradients])


def approximate_penalty(critic: Critic, clips: Clips, logits_B: Tensor, sigma: float, noise: Clips) -> Tensor:
    """aR1 on real clips, aR2 on fake ones, (B,): how far Gaussian noise moves the logit, squared (Eq. 3).

    To first order its mean over noise is sigma² times `exact_penalty`: a weight on this one times sigma² acts as the
    weight on that one.

    Args:
        logits_B: critic(clips), which the adversarial loss has computed already.
        sigma: standard deviation. Not stated in the paper; APT has 0.01 for pictures and 0.1 for clips.
        noise: standard normal, of the clips' shapes.
    """
    if isinstance(clips, Tensor):
        moved = clips + sigma * noise
    else:
        moved = [clip + sigma * one for clip, one in zip(clips, noise, strict=True)]
    return (critic(moved) - logits_B).square()


def l1(restored: Clips, target: Clips) -> Tensor:
    """Mean absolute error in latent space, (B,)."""
    return torch.stack([(one - other).abs().mean() for one, other in zip(restored, target, strict=True)])


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Distance of the discriminator's features, the mean over its chosen blocks (Eq. 4), (B,).

    A mean of absolute differences, so that clips of all sizes weigh alike. Our choice: the paper writes a norm and
    does not say how it is scaled.

    Args:
        fake, real: per block (P, D), the tokens of all clips in a row. Nothing flows back into the real ones.
        lengths: tokens of each clip.
    """
    distances = [(a - b.detach()).abs().mean(1).split(tuple(lengths)) for a, b in zip(fake, real, strict=True)]
    return torch.stack([torch.stack([clip.mean() for clip in block]) for block in distances]).mean(0)


@dataclass(frozen=True)
class AdversarialLosses:
    """Switches and weights of one arm. The penalties belong to the discriminator, `l1` and `feature_matching` to the
    generator; a weight of 0 switches a term off."""

    pairing: Pairing = "rpgan"
    r1: float = 1000.0
    r2: float = 1000.0
    penalty: Literal["approximate", "exact"] = "approximate"
    sigma: float = 0.1  # of the approximate penalties
    gan: float = 1.0
    l1: float = 0.0
    feature_matching: float = 0.0
    start: Literal["teacher", "progressive"] = "teacher"  # whose weights the generator starts from


# Table 3, column by column, and the released model. Weights are the paper's; what they mean depends on the latent's
# scale and on sigma, see `approximate_penalty`.
ARMS = {
    "apt": AdversarialLosses(pairing="non_saturating", r2=0),
    "rpgan": AdversarialLosses(),
    "+l1": AdversarialLosses(l1=1.0),
    "+fm": AdversarialLosses(l1=1.0, feature_matching=1.0),
    "full": AdversarialLosses(l1=1.0, feature_matching=1.0, start="progressive"),
    "final": AdversarialLosses(l1=0.1, feature_matching=0.1, start="progressive"),
}
