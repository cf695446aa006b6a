"""Adversarial post-training: the one-step generator against the discriminator (the paper's section 3.3, after APT).

The whole step is below: `discriminator_step` and `generator_step` return what each player minimises; the loop lets them
take turns, with the other one frozen. Batches are latents of one size (a 5-D tensor) or of several (a list).
"""

from collections import deque
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from seedvr2_lab.console import TrainingFailed
from seedvr2_lab.model.diffusion import T_MAX, build_condition, one_step
from seedvr2_lab.model.discriminator import Discriminator, Judgement
from seedvr2_lab.model.dit import Clips, DiT
from seedvr2_lab.training.loop import Loss, Player
from seedvr2_lab.training.losses import (
    AdversarialLosses,
    approximate_penalty,
    discriminator_loss,
    exact_penalty,
    feature_matching,
    generator_loss,
    l1,
)
from seedvr2_lab.training.pairs import Pairs

Feed = Callable[[int, torch.Generator], tuple[Clips, Clips]]  # (step, generator) -> low, high
PATIENCE = 100  # discriminator steps
BLIND, ALL_SEEING = 1e-4, 20.0  # mean logit gaps at which the players have nothing left to learn from each other


def round_robin(batches: Sequence[tuple[Pairs, int]], device: str = "cpu") -> Feed:
    """Successive steps go round the pools, each with how many pairs to draw."""

    def feed(step: int, generator: torch.Generator) -> tuple[Clips, Clips]:
        pool, count = batches[step % len(batches)]
        return tuple(pool.draw(count, generator, device))

    return feed


def mixed(batches: Sequence[tuple[Pairs, int]], device: str = "cpu") -> Feed:
    """Every batch holds clips of all pools, so of several sizes."""

    def feed(step: int, generator: torch.Generator) -> tuple[Clips, Clips]:
        drawn = [pool.draw(count, generator, device) for pool, count in batches]
        return tuple([clip for part in side for clip in part] for side in zip(*drawn, strict=True))

    return feed


def growing(phases: Sequence[tuple[int, Feed]]) -> Feed:
    """Feeds one after the other, each from its first step on: pictures first, then ever longer clips."""

    def feed(step: int, generator: torch.Generator) -> tuple[Clips, Clips]:
        return [one for first, one in phases if first <= step][-1](step, generator)

    return feed


def generate(dit: DiT, low: Clips, noise: Clips, text_LD: Tensor) -> Clips:
    """The restored latents in one call each, x_0 = noise - v(noise, 1000)."""
    if isinstance(low, Tensor):
        return one_step(dit, noise, build_condition(low), text_LD)
    inputs = [torch.cat([start, build_condition(clip)]) for start, clip in zip(noise, low, strict=True)]
    return [start - v for start, v in zip(noise, dit(inputs, text_LD, T_MAX), strict=True)]


def adversarial_players(
    dit: DiT,
    discriminator: Discriminator,
    feed: Feed,
    text_LD: Tensor,
    losses: AdversarialLosses,
    noise_scale: float = 1.0,
) -> dict[str, Player]:
    """Discriminator and generator, in the order of their turns; `noise_scale` is of what the generator starts from."""
    return {
        "discriminator": Player(discriminator, discriminator_step(dit, feed, text_LD, losses, noise_scale)),
        "generator": Player(dit, generator_step(discriminator, feed, text_LD, losses, noise_scale)),
    }


def discriminator_step(
    dit: DiT, feed: Feed, text_LD: Tensor, losses: AdversarialLosses, noise_scale: float = 1.0
) -> Loss:
    """What the discriminator minimises against the generator as it is now.

    Ends the training when the discriminator has collapsed: over the last `PATIENCE` steps its mean logit gap
    |D(real) - D(fake)| was below `BLIND`, so that it says the same of everything, or above `ALL_SEEING`, so that the
    generator's gradient has vanished. A run that goes on from a checkpoint counts anew.
    """
    gaps = deque(maxlen=PATIENCE)

    def loss(discriminator: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        low, real = feed(step, generator)
        fake = _detached(generate(dit, low, _noise_like(low, generator, noise_scale), text_LD))
        time_B = _times(len(low), generator, low[0].device)

        def judge(clips: Clips) -> Tensor:
            return discriminator(clips, low, text_LD, time_B).logits_B

        real_B, fake_B = judge(real), judge(fake)
        found = {"gan": discriminator_loss(real_B, fake_B, losses.pairing).mean()}
        for name, weight, clips, logits_B in (("r1", losses.r1, real, real_B), ("r2", losses.r2, fake, fake_B)):
            if weight and losses.penalty == "exact":
                found[name] = exact_penalty(judge, clips).mean()
            elif weight:
                noise = _noise_like(clips, generator)
                found[name] = approximate_penalty(judge, clips, logits_B, losses.sigma, noise).mean()
        weights = {"gan": losses.gan, "r1": losses.r1, "r2": losses.r2}
        found["loss"] = sum(weights[name] * value for name, value in found.items())
        found["gap"] = (real_B - fake_B).mean()

        gaps.append(found["gap"].abs().item())
        if len(gaps) == PATIENCE and not BLIND < fmean(gaps) < ALL_SEEING:
            raise TrainingFailed(
                f"the discriminator has collapsed, its mean logit gap over {PATIENCE} steps is {fmean(gaps):.2g}"
            )
        return found

    return loss


def generator_step(
    discriminator: Discriminator, feed: Feed, text_LD: Tensor, losses: AdversarialLosses, noise_scale: float = 1.0
) -> Loss:
    """What the generator minimises against the discriminator as it is now."""

    def loss(dit: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        low, real = feed(step, generator)
        fake = generate(dit, low, _noise_like(low, generator, noise_scale), text_LD)
        time_B = _times(len(low), generator, low[0].device)
        found = {"l1": l1(fake, real).mean()}
        if losses.gan or losses.feature_matching:
            judged: Judgement = discriminator(fake, low, text_LD, time_B)
            with torch.no_grad():
                truth: Judgement = discriminator(real, low, text_LD, time_B)
            found["gan"] = generator_loss(truth.logits_B, judged.logits_B, losses.pairing).mean()
            found["feature_matching"] = feature_matching(judged.features, truth.features, judged.lengths).mean()
        weights = {"l1": losses.l1, "gan": losses.gan, "feature_matching": losses.feature_matching}
        found["loss"] = sum(weights[name] * value for name, value in found.items())
        return found

    return loss


def _times(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The discriminator's times, uniform: APT's choice for pictures (for clips it draws later ones)."""
    return T_MAX * torch.rand(count, generator=generator).to(device)


def _noise_like(clips: Clips, generator: torch.Generator, scale: float = 1.0) -> Clips:
    if isinstance(clips, Tensor):
        return scale * torch.randn(clips.shape, generator=generator).to(clips.device)
    return [scale * torch.randn(clip.shape, generator=generator).to(clip.device) for clip in clips]


def _detached(clips: Clips) -> Clips:
    return clips.detach() if isinstance(clips, Tensor) else [clip.detach() for clip in clips]
