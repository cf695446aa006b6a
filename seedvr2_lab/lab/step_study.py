"""How many steps a restoration needs: Euler's method where the flow is known, and the bundled models on crops."""

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from seedvr2_lab.lab.figures import COLORS, new_figure
from seedvr2_lab.model.diffusion import T_MAX, Velocity, euler_step, sampling_times
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator
from seedvr2_lab.training.distill import two_steps_as_one
from seedvr2_lab.training.loop import last_rows, read_log
from seedvr2_lab.training.validation import Crops, Figures, mean_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEAKS, SPREAD = (-1.0, 1.0), 0.1  # two answers that are equally likely


def known_velocity(x: Tensor, moment: Tensor | float) -> Tensor:
    """E[x_T - x_0 | x_t] where the clean number is normal around one of `PEAKS`: what a perfect network predicts."""
    b = torch.as_tensor(moment, dtype=x.dtype) / T_MAX
    a, variance = 1 - b, (1 - b) ** 2 * SPREAD**2 + b**2
    peaks = torch.tensor(PEAKS, dtype=x.dtype)
    share = (-((x[..., None] - a * peaks) ** 2) / (2 * variance)).softmax(-1)
    residual = x[..., None] - a * peaks
    velocity = -peaks + (b - a * SPREAD**2) / variance * residual
    return (share * velocity).sum(-1)


def halvings(velocity: Velocity, steps: int) -> dict[int, Velocity]:
    """The perfect students of a sampler with `steps` steps, by their number of steps, down to one."""
    students = {}
    while steps > 1:
        steps //= 2
        velocity = students[steps] = _halved(velocity, T_MAX / steps)
    return students


def _halved(velocity: Velocity, length: float) -> Velocity:
    return lambda x, moment: two_steps_as_one(velocity, x, torch.as_tensor(moment), torch.as_tensor(moment - length))


class Walk(NamedTuple):
    """Where points are after every step."""

    times: list[float]
    x_NP: Tensor  # the points at each of the times


def walk(velocity: Velocity, start_P: Tensor, steps: int) -> Walk:
    """Euler's method from these points at time 1000, step by step."""
    times = [*sampling_times(steps), 0.0]
    points = [start_P]
    for moment, until in pairwise(times):
        points.append(euler_step(points[-1], velocity(points[-1], moment), moment, until))
    return Walk(times, torch.stack(points))


def walk_figure(walks: Mapping[str, Walk]) -> "Figure":
    """Points on their way from noise (left) to clean numbers (right), a panel for each walk."""
    figure, axes = new_figure(1, len(walks), height=3.2, squeeze=False, sharey=True)
    for here, (title, (times, x_NP)) in zip(axes[0], walks.items(), strict=True):
        here.plot(times, x_NP.numpy(), color=COLORS[0], lw=0.8, alpha=0.7)
        here.set(xlim=(T_MAX, 0), xlabel="time t")
        here.set_title(title, size=10)
        here.locator_params(axis="x", nbins=3)
    axes[0, 0].set_ylabel("x")
    return figure


def crops_a_seed(profile: str) -> int:
    """Test crops that figures of a seed are taken over."""
    return 3 if profile == "smoke" else 24


class Restored(NamedTuple):
    """What a model makes of crops."""

    clips_BCTHW: Tensor  # in [0, 1]
    seconds: float  # of the transformer, for each clip; 0 without one
    figures: Figures


@torch.inference_mode()
def restored(made: Generator, vae: VideoVAE, crops: Crops, steps: int) -> Restored:
    """Crops restored with so many steps of Euler's method."""
    start = time.perf_counter()
    latent = made.restore(crops.pairs.low_BCTHW, crops.noise_BCTHW, steps)
    seconds = (time.perf_counter() - start) / len(latent)
    return judged(vae, crops, latent)._replace(seconds=seconds)


@torch.inference_mode()
def judged(vae: VideoVAE, crops: Crops, latent_BCTHW: Tensor) -> Restored:
    """The clips of latents beside the original crops."""
    clips = vae.to_clips(latent_BCTHW).clamp(0, 1)
    return Restored(clips, 0.0, mean_figures(clips, crops.clips_BCTHW))


def training_seconds(weights: Path) -> list[float]:
    """How long each of the trainings behind a weight file took, from the log beside it."""
    return [row["seconds"] for row in last_rows(read_log(weights.with_suffix(".log.jsonl")))]


def recorded_halvings(weights: Path) -> Mapping[int, Figures]:
    """Figures of every student on validation crops, by its number of steps, from the record beside the weights."""
    record = json.loads(weights.with_suffix(".json").read_text())["steps of the student"]
    return {int(steps): figures for steps, figures in record.items()}
