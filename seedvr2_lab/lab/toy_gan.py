"""GANs in the plane: the adversarial losses on data whose modes can be counted.

Twenty-five Gaussians on a grid, or eight on a ring. Generator and discriminator are small networks, everything else is
what trains the video model: the same losses, the same loop. An arm is a pairing, the penalties it uses, and whether
they are exact or approximated; per seed all arms start from the same weights and see the same points.

Legend: `B` points of a batch, `M` modes; points are (B, 2).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, log, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seedvr2_lab.console import InputError
from seedvr2_lab.lab.arms import kept
from seedvr2_lab.training.loop import Loss, Player, TrainConfig, read_log, train_players
from seedvr2_lab.training.losses import (
    AdversarialLosses,
    approximate_penalty,
    discriminator_loss,
    exact_penalty,
    generator_loss,
)

MODES = {
    "grid": torch.tensor([(x - 2.0, y - 2.0) for x in range(5) for y in range(5)]),
    "ring": torch.tensor([(2 * cos(pi * k / 4), 2 * sin(pi * k / 4)) for k in range(8)]),
}
SPREAD = 0.1  # standard deviation of a mode; neighbours are 1.0 apart on the grid, 1.5 on the ring
EDGE = 3.0  # figures and surfaces show the square from -EDGE to EDGE
SURFACE = 32  # places along a side of a surface

# Chosen with seeds 100 and 101, so that RpGAN with both penalties covers the grid within a thousand steps.
GAMMA = 0.05
SIGMA = 0.02  # a fifth of a mode's spread
STEPS = {"smoke": 75, "laptop": 800, "gpu": 10_000}
LATENT, WIDTH, BATCH, LEARNING_RATE = 8, 64, 64, 5e-3

PAIRINGS = {"rpgan": "rpgan", "ns": "non_saturating"}
PENALTIES = {
    "none": (False, False, "exact"),
    "R1": (True, False, "exact"),
    "R1+R2": (True, True, "exact"),
    "aR1": (True, False, "approximate"),
    "aR1+aR2": (True, True, "approximate"),
}
ARMS = tuple(f"{pairing} {penalties}" for pairing in PAIRINGS for penalties in PENALTIES)


@dataclass(frozen=True)
class Settings:
    """One arm with one seed, resolved: all that its numbers depend on."""

    data: str  # a name of MODES
    losses: AdversarialLosses
    training: TrainConfig
    batch: int = BATCH
    latent: int = LATENT  # numbers that the generator starts from
    width: int = WIDTH  # of the hidden layers of both networks
    samples: int = 10_000  # to judge the generator by


def toy_settings(data: str, arm: str, seed: int, profile: str, gamma: float = GAMMA, sigma: float = SIGMA) -> Settings:
    """The settings of an arm, a name of ARMS such as "rpgan R1+R2" or "ns aR1".

    Args:
        gamma: exact penalties weigh gamma / 2, as in R3GAN; approximated ones gamma / (2 sigma²), which to first order
            is the same.
    """
    if data not in MODES:
        raise InputError(f"there are no points '{data}': choose one of {', '.join(MODES)}")
    pairing, _, penalties = arm.partition(" ")
    if pairing not in PAIRINGS or penalties not in PENALTIES:
        raise InputError(f"there is no arm '{arm}': choose one of {', '.join(ARMS)}")
    on_real, on_fake, kind = PENALTIES[penalties]
    weight = gamma / 2 if kind == "exact" else gamma / (2 * sigma**2)
    losses = AdversarialLosses(PAIRINGS[pairing], on_real * weight, on_fake * weight, kind, sigma)
    steps = STEPS[profile]
    training = TrainConfig(
        steps=steps, learning_rate=LEARNING_RATE, warmup=steps // 25, weight_decay=0.0, betas=(0.5, 0.9),
        gradient_clip=1e6, seed=seed, log_every=max(1, steps // 60), checkpoint_every=steps // 25, bf16=False,
        ema=0.0,  # an average would hide a generator that runs in circles
    )  # fmt: skip
    return Settings(data, losses, training)


def run_arm(settings: Settings, folder: Path | None = None, runs: Path | None = None) -> dict[str, Any]:
    """Train an arm and judge its generator, or read what an earlier run found. `folder` and `runs` as in `arms.kept`.

    Returns:
        "curves": name -> [[step, value], ...], of the players' losses and of the judgements during training;
        "modes", "quality", "kl": of the trained generator, see `judge`; "points": 500 of its samples;
        "surface": logits of the trained discriminator at `surface_points`, row by row; "seconds".
    """

    def compute(checkpoints: Path) -> dict[str, Any]:
        shutil.rmtree(checkpoints, ignore_errors=True)  # seconds of work: begun anew, the curves are whole
        history = []

        def watch(done: int, networks: Mapping[str, nn.Module]) -> None:
            history.append((done, judge(sample(networks["generator"], settings), settings.data)))

        networks = train_players(players(settings), settings.training, checkpoints, watch=watch)
        points = sample(networks["generator"], settings)
        rows = read_log(checkpoints / "log.jsonl")
        curves = {
            name: [[row["step"], row[name]] for row in rows if name in row]
            for name in rows[0]
            if name not in ("step", "seconds")
        }
        curves |= {
            name: [[done, found[index]] for done, found in history] for index, name in enumerate(Judgement._fields)
        }
        with torch.no_grad():
            surface = networks["discriminator"](surface_points()).view(SURFACE, SURFACE)
        return {
            **judge(points, settings.data)._asdict(),
            "curves": curves,
            "points": [[round(number, 3) for number in point] for point in points[:500].tolist()],
            "surface": [[round(logit, 3) for logit in row] for row in surface.tolist()],
            "seconds": rows[-1]["seconds"],
        }

    return kept({"study": "toy gan", "arm": settings}, compute, folder, runs)


def two_numbers(losses: AdversarialLosses, steps: int = 400, rate: float = 0.1) -> Tensor:
    """The smallest GAN (Mescheder et al. 2018), by gradient steps of both players at once: (steps + 1, 2).

    All real data lie at 0 and all fake ones at one place, the generator's only weight (first number of a row); the
    discriminator is a straight line through 0 whose slope is its only weight (second number).
    """
    place, slope = torch.ones(1, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    real_11, path = torch.zeros(1, 1), [(1.0, 0.0)]

    def line(points_11: Tensor) -> Tensor:
        return (points_11 * slope).flatten()

    for _ in range(steps):
        real_1, fake_1 = line(real_11), line(place)
        penalty = losses.r1 * exact_penalty(line, real_11) + losses.r2 * exact_penalty(line, place)
        (downhill,) = torch.autograd.grad(
            (discriminator_loss(real_1, fake_1, losses.pairing) + penalty).sum(), slope, retain_graph=True
        )
        (move,) = torch.autograd.grad(generator_loss(real_1, fake_1, losses.pairing).sum(), place)
        with torch.no_grad():
            slope -= rate * downhill
            place -= rate * move
        path.append((place.item(), slope.item()))
    return torch.tensor(path)


class Judgement(NamedTuple):
    """How well samples cover the modes."""

    modes: int  # that are kept: with at least a tenth of their share of all samples, all of them of high quality
    quality: float  # share of samples of high quality: within 3 standard deviations of a mode
    kl: float  # Kullback-Leibler divergence in nats of the samples' histogram over modes from an even one


def judge(points_B2: Tensor, data: str) -> Judgement:
    """Samples against the modes; every sample is counted for its nearest mode."""
    modes_M2 = MODES[data]
    distance_B, nearest_B = torch.cdist(points_B2, modes_M2).min(1)
    good_B = distance_B < 3 * SPREAD
    M, B = len(modes_M2), len(points_B2)
    good_M = torch.bincount(nearest_B[good_B], minlength=M)
    share_M = torch.bincount(nearest_B, minlength=M) / B
    kl = torch.special.xlogy(share_M, share_M).sum().item() + log(M)
    return Judgement(int((good_M >= 0.1 * B / M).sum()), good_B.float().mean().item(), max(kl, 0.0))


def draw(data: str, count: int, generator: torch.Generator) -> Tensor:
    """Real points."""
    modes_M2 = MODES[data]
    chosen_B = torch.randint(len(modes_M2), (count,), generator=generator)
    return modes_M2[chosen_B] + SPREAD * torch.randn(count, 2, generator=generator)


@torch.no_grad()
def sample(network: nn.Module, settings: Settings) -> Tensor:
    """The points a generator makes of noise that is the same every time."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    return network(torch.randn(settings.samples, settings.latent, generator=generator))


def surface_points() -> Tensor:
    """Places on a square lattice, the first row at the bottom."""
    side = torch.linspace(-EDGE, EDGE, SURFACE)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def new_generator(latent: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 2)
    )


def new_discriminator(width: int) -> nn.Sequential:
    """Smooth, as the transformer is, and steep: a flat one needs thousands of steps to see small clusters.

    A hidden layer more than the generator. With as many as that one has, even without a penalty all modes are kept.
    """
    first = nn.Linear(2, width)
    with torch.no_grad():
        first.weight.mul_(4)
        first.bias.mul_(8)  # so that the units' steps lie all over the data
    hidden = [nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(first, nn.SiLU(), *hidden, nn.Linear(width, 1), nn.Flatten(0))


def players(settings: Settings) -> dict[str, Player]:
    """Fresh networks, the same for every arm of a seed, and what they minimise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        generator = new_generator(settings.latent, settings.width)
        discriminator = new_discriminator(settings.width)
    return {
        "discriminator": Player(discriminator, _discriminator_step(generator, settings)),
        "generator": Player(generator, _generator_step(discriminator, settings)),
    }


def _batch(settings: Settings, generator: torch.Generator) -> Sequence[Tensor]:
    """Real points, and noise for as many fake ones."""
    real_B2 = draw(settings.data, settings.batch, generator)
    return real_B2, torch.randn(settings.batch, settings.latent, generator=generator)


def _discriminator_step(network: nn.Module, settings: Settings) -> Loss:
    losses = settings.losses

    def loss(discriminator: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        real_B2, noise = _batch(settings, generator)
        with torch.no_grad():
            fake_B2 = network(noise)
        real_B, fake_B = discriminator(torch.cat([real_B2, fake_B2])).chunk(2)
        found = {"gan": discriminator_loss(real_B, fake_B, losses.pairing).mean(), "gap": (real_B - fake_B).mean()}
        total = found["gan"]
        for name, weight, points_B2, logits_B in (
            ("r1", losses.r1, real_B2, real_B),
            ("r2", losses.r2, fake_B2, fake_B),
        ):
            moves_B2 = torch.randn(points_B2.shape, generator=generator)  # drawn by every arm, so that all see the same
            if weight and losses.penalty == "exact":
                found[name] = exact_penalty(discriminator, points_B2).mean()
            elif weight:
                found[name] = approximate_penalty(discriminator, points_B2, logits_B, losses.sigma, moves_B2).mean()
            total = total + weight * found.get(name, 0)
        return {"loss": total, **found}

    return loss


def _generator_step(discriminator: nn.Module, settings: Settings) -> Loss:
    def loss(network: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        real_B2, noise = _batch(settings, generator)
        logits = discriminator(torch.cat([real_B2, network(noise)]))
        real_B, fake_B = logits.chunk(2)
        return {"loss": generator_loss(real_B, fake_B, settings.losses.pairing).mean()}

    return loss
