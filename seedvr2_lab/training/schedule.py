"""How long each stage of the recipe learns, and from what: one table of run profiles for the trainings.

The paper's own numbers are far away: 10,000 iterations of 72 GPUs a halving at a learning rate of 1e-6. `laptop` made
the bundled weights on two CPU cores; `smoke` shows that every line runs; `gpu` is a start for one GPU, not tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seedvr2_lab.training.loop import TrainConfig
from seedvr2_lab.training.losses import ARMS, AdversarialLosses

Batch = tuple[int, int]  # clips, frames of each


@dataclass(frozen=True)
class Schedule:
    """The stages of a profile. `adversarial` draws clips of mixed lengths, every other stage those of one length at a
    time. `progressive` is one halving, `last_halving` the one to a single step."""

    crop: int  # pixels, height and width of training clips
    pools: Mapping[int, int]  # frames of a clip: pairs that are encoded once
    large_pools: Mapping[int, int]  # those of the last halving, of varied clips
    batches: tuple[Batch, ...]  # of successive steps, over and over
    phases: tuple[
        tuple[float, tuple[Batch, ...]], ...
    ]  # adversarial: from this share of the steps on, a batch of these
    regression: TrainConfig
    teacher: TrainConfig
    progressive: TrainConfig
    last_halving: TrainConfig
    consistency: TrainConfig
    adversarial: TrainConfig
    smaller: TrainConfig
    presets: tuple[str, ...] = ("light", "paper")  # a clip is degraded by one of them
    validation: int = 16  # clips of each length that a finished model is measured on
    # The paper's weights mean nothing at another scale of the latents. These were chosen on validation.
    # Of aR1 and aR2, for its 1000: 75 steps of the arm `final` from an unfinished teacher brought textures from a
    # distance of 0.60 to 0.54 with 10, to 0.52 with 1.
    penalty: float = 10.0
    # Of L1, for its 1: 50 steps of the arm `full` cost 1.7 dB of PSNR with 1 and a learning rate of 1e-4, 0.4 dB with 5
    # and 5e-5, and brought textures from 0.67 to 0.50 and to 0.54. 240 steps cost 1.4 dB, 100 steps 1.0, 70 steps 0.6.
    l1: float = 5.0

    def losses(self, arm: str) -> AdversarialLosses:
        """Those of an arm of Table 3 (see `ARMS`), with the weights that they need here."""
        paper = ARMS[arm]
        r1, r2 = (self.penalty * bool(weight) for weight in (paper.r1, paper.r2))
        return replace(paper, r1=r1, r2=r2, l1=self.l1 * paper.l1)


SCRATCH = TrainConfig(steps=3000, learning_rate=4e-3, warmup=100, muon=True)  # from random weights
DISTILL = TrainConfig(steps=100, learning_rate=1.5e-3, warmup=10, ema=0.99, muon=True, checkpoint_every=50)
# Adam without momentum, as in APT and R3GAN: the other player's gradients of a while ago mislead.
ADVERSARIAL = TrainConfig(steps=80, learning_rate=5e-5, warmup=20, ema=0.99, betas=(0.0, 0.99), checkpoint_every=50)

# The student of one step learns from the clean latents, too, in this share of the clips (see `matching_loss`). One that
# only imitates its teacher draws one of the possible originals, with twice the squared error of their mean: 2 dB less
# than bicubic on validation pictures. Of one that only learns the mean and has no noise, adversarial training makes a
# repeater of one pattern: what is to vary needs noise. It learns with a tenth of the noise; a quarter is no better and
# no worse. What it is used with is chosen when it has learned (see `stages.NOISES`). Our choice; the paper does not say
# what its one-step student loses.
LAST_TRUTH, LAST_NOISE = 0.9, 0.1

LAPTOP = Schedule(
    crop=128,
    pools={1: 4096, 5: 1024, 9: 256},
    # A mean takes many pairs, and what is long enough to learn it learns few pairs by heart: after 9600 steps on those
    # above the error in latents was 0.238 on them and 0.312 on new crops of the same pictures, after 2400 steps 0.269
    # and 0.311. Other stages see noise with each pair, or are short. Clips are varied, for the photographs are few:
    # 500 further steps on such pictures took a photograph that was not among them (Matplotlib's grace_hopper, `light`)
    # from 24.37 dB and an SSIM of 0.709 to 24.47 and 0.711, as many on plain crops to 24.31 and 0.706.
    large_pools={1: 16384, 5: 4096},
    batches=((16, 1), (16, 1), (16, 1), (6, 5)),
    phases=((0.0, ((8, 1),)), (0.5, ((4, 1), (2, 5))), (0.8, ((2, 1), (1, 5), (1, 9)))),
    regression=SCRATCH,
    teacher=replace(SCRATCH, steps=5000, ema=0.999),
    progressive=DISTILL,
    last_halving=replace(DISTILL, steps=3600, learning_rate=3e-3),
    consistency=replace(DISTILL, steps=600),
    adversarial=ADVERSARIAL,
    smaller=replace(SCRATCH, steps=1500),
)


def _resized(schedule: Schedule, factor: float, **changes) -> Schedule:
    """With all trainings longer or shorter by a factor."""
    configs = {
        name: replace(config, steps=max(2, round(config.steps * factor)))
        for name, config in vars(schedule).items()
        if isinstance(config, TrainConfig)
    }
    return replace(schedule, **configs | changes)


SCHEDULES = {
    "smoke": _resized(
        LAPTOP,
        1 / 1000,
        validation=2,
        crop=64,
        pools={1: 8, 5: 4, 9: 2},
        large_pools={1: 16, 5: 8},
        batches=((2, 1), (1, 5)),
        phases=((0.0, ((2, 1),)), (0.5, ((1, 1), (1, 5)))),
    ),
    "laptop": LAPTOP,
    "gpu": _resized(
        LAPTOP,
        10,
        pools={1: 32768, 5: 8192, 9: 2048},
        large_pools={1: 131072, 5: 16384},
        batches=((64, 1), (64, 1), (64, 1), (24, 5)),
        phases=((0.0, ((64, 1),)), (0.5, ((32, 1), (12, 5))), (0.8, ((16, 1), (8, 5), (6, 9)))),
    ),
}
