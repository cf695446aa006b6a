"""The teacher: a many-step diffusion model of the high-quality latent, given the low-quality one (SeedVR's recipe).

It predicts the velocity at random times along the straight path from clean latent to noise. The low-quality latent
beside it is noised a little, so that the teacher does not trust it blindly.

Published is to mix it with noise, which also fades it, by up to a quarter. A small teacher cannot tell how far: it gave
restored pictures 9 % more contrast than the originals have and lost up to 2 dB of PSNR, before the colour fix. Here the
same ratio of signal to noise comes from adding noise, and the condition keeps its contrast. Our choice.

Published are logit-normal times. Of those one in 500 is above 950, but every sampler starts at 1000, and a one-step
student knows no other time: 3000 steps of the bundled size left a squared error of the clean latent of 0.30 at 950 and
of 0.43 at 1000, on validation. Half of the times are uniform therefore. Our choice.

Guidance needs something to be guided away from. In a share of the clips the target is the degraded latent itself and
the text is the negative one: under it the teacher draws low quality, and guidance moves away from that. Our choice; the
paper only names a scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seedvr2_lab.model.diffusion import T_MAX, build_condition, mix, velocity_target
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.training.loop import Loss
from seedvr2_lab.training.pairs import Pairs

NEGATIVE_SHARE = 0.1  # of the clips
UNIFORM_SHARE = 0.5  # of the clips have uniform times
CONDITION_NOISE = 0.25  # the most noise in a condition, as a share of the mix; the published configuration's number


def teacher_loss(
    batches: Sequence[tuple[Pairs, int]],
    positive_LD: Tensor,
    negative_LD: Tensor,
    negative_share: float = NEGATIVE_SHARE,
    condition_noise: float = CONDITION_NOISE,
    uniform_share: float = UNIFORM_SHARE,
) -> Loss:
    """Mean squared error of the velocity.

    Args:
        batches: pools and how many pairs to draw from each; successive steps go round them.
        positive_LD, negative_LD: texts of high and of low quality, of one length.
        negative_share: of clips with the degraded latent as their target.
        uniform_share: of clips with uniform times, the others have logit-normal ones.
        condition_noise: share of noise in the condition, drawn between 0 and this for every clip.
    """

    def loss(dit: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        pool, count = batches[step % len(batches)]
        device = next(dit.parameters()).device
        low, high = pool.draw(count, generator)
        noise, blur = (torch.randn(low.shape, generator=generator) for _ in range(2))
        is_negative = torch.rand(count, generator=generator) < negative_share
        times = torch.randn(count, generator=generator).sigmoid(), torch.rand(count, generator=generator)
        time = T_MAX * torch.where(torch.rand(count, generator=generator) < uniform_share, times[1], times[0])
        share = condition_noise * torch.rand(count, generator=generator).view(-1, 1, 1, 1, 1)

        target = torch.where(is_negative.view(-1, 1, 1, 1, 1), low, high)
        condition = build_condition(low + share / (1 - share) * blur)
        clips = torch.cat([mix(target, noise, time), condition], 1).to(device)
        texts = [(negative_LD if negative else positive_LD).to(device) for negative in is_negative]
        velocity = dit(clips, texts, time.to(device))
        error = (velocity - velocity_target(target, noise).to(device)).square().flatten(1).mean(1)
        return {"loss": error.mean()}

    return loss
