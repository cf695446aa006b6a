"""Which metric sees what: named damages in rising grades, and how metrics rank them.

Clips are (C, T, H, W) in [0, 1]. A metric's *cost* is its value turned so that lower is better.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import log
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.lab.figures import new_figure
from seedvr2_lab.media.compression import jpeg
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.metrics import METRICS, Unavailable, measure
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARPENING_RADIUS = 1.5  # pixels, sigma of the blur that an unsharp mask takes away
TIE = 1e-6  # costs that differ by less, of the larger one, are equal: clips are float32

Readings = Mapping[str, Mapping[str, Sequence[float]]]  # damage -> metric -> its cost at each grade


def blurred(clip_CTHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur within each frame, sigma in pixels."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(clip_CTHW.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def sharpened(clip_CTHW: Tensor, amount: float) -> Tensor:
    """Unsharp mask: the fine detail counts 1 + amount times."""
    return (clip_CTHW + amount * (clip_CTHW - blurred(clip_CTHW, SHARPENING_RADIUS))).clamp(0, 1)


def shrunk(clip_CTHW: Tensor, factor: float) -> Tensor:
    """Made so many times smaller and larger again, bicubic."""
    H, W = clip_CTHW.shape[2:]
    small_TCHW = resize(clip_CTHW.transpose(0, 1), (round(H / factor), round(W / factor)))
    return resize(small_TCHW, (H, W)).transpose(0, 1)


def shifted(clip_CTHW: Tensor, pixels: float) -> Tensor:
    """Moved down and to the right by whole pixels; the first row and column are repeated."""
    for axis in (2, 3):
        from_index = (torch.arange(clip_CTHW.shape[axis]) - int(pixels)).clamp(min=0)
        clip_CTHW = clip_CTHW.index_select(axis, from_index)
    return clip_CTHW


def scrambled(clip_CTHW: Tensor, frequency: float, generator: torch.Generator) -> Tensor:
    """Everything above a frequency, in cycles a pixel, at wrong places: random phases with the energy unchanged.

    The phases are added to those of the frames, the same ones in all: a texture that moves still moves.
    """
    H, W = clip_CTHW.shape[2:]
    turns_HW = torch.fft.fft2(torch.randn(H, W, generator=generator))  # of a real picture, so the result is real
    turns_HW = turns_HW / turns_HW.abs()
    slow_HW = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)) <= frequency
    spectrum_CTHW = torch.fft.fft2(clip_CTHW) * turns_HW.masked_fill(slow_HW, 1)
    return torch.fft.ifft2(spectrum_CTHW).real.clamp(0, 1)


def _noise(clip_CTHW: Tensor, sigma: float, generator: torch.Generator, frames: int) -> Tensor:
    C, _, H, W = clip_CTHW.shape
    return (clip_CTHW + sigma * torch.randn(C, frames, H, W, generator=generator)).clamp(0, 1)


def _brightness_jumps(clip_CTHW: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return (clip_CTHW + sigma * torch.randn(1, clip_CTHW.shape[1], 1, 1, generator=generator)).clamp(0, 1)


def _colour_cast(clip_CTHW: Tensor, strength: float) -> Tensor:
    return (clip_CTHW + strength * torch.tensor([1.0, 0.0, -1.0])[:, None, None, None]).clamp(0, 1)


class Damage(NamedTuple):
    """A way to make a clip worse."""

    apply: Callable[[Tensor, float, torch.Generator], Tensor]  # clip, grade, of its noise -> clip
    grades: tuple[float, ...]  # from mild to strong
    unit: str


DAMAGES = {
    "blur": Damage(lambda clip, grade, _: blurred(clip, grade), (0.7, 1.2, 2, 3), "σ, pixels"),
    "bicubic": Damage(lambda clip, grade, _: shrunk(clip, grade), (2, 3, 4, 6), "times smaller"),
    "sharpening": Damage(lambda clip, grade, _: sharpened(clip, grade), (0.5, 1, 2, 4), "times the detail"),
    "JPEG": Damage(
        lambda clip, grade, _: torch.stack([jpeg(frame, int(grade)) for frame in clip.unbind(1)], 1),
        (60, 30, 15, 7),
        "quality",
    ),
    "fresh noise": Damage(
        lambda clip, grade, random: _noise(clip, grade, random, clip.shape[1]), (0.02, 0.04, 0.08, 0.16), "σ"
    ),
    "still noise": Damage(lambda clip, grade, random: _noise(clip, grade, random, 1), (0.02, 0.04, 0.08, 0.16), "σ"),
    "wrong texture": Damage(scrambled, (3 / 8, 1 / 4, 1 / 8, 1 / 16), "cycles a pixel, above"),
    "shift": Damage(lambda clip, grade, _: shifted(clip, grade), (1, 2, 4, 8), "pixels"),
    "darker": Damage(lambda clip, grade, _: clip * (1 - grade), (0.05, 0.1, 0.2, 0.4), "light lost"),
    "colour cast": Damage(
        lambda clip, grade, _: _colour_cast(clip, grade), (0.02, 0.04, 0.08, 0.16), "to red and from blue"
    ),
    "brightness jumps": Damage(_brightness_jumps, (0.01, 0.02, 0.04, 0.08), "σ over frames"),
}


def damaged(clip_CTHW: Tensor, name: str, grade: float, seed: int = 0) -> Tensor:
    """A damage of DAMAGES; the same noise at every grade, only stronger.

    Raises:
        InputError: for a name that is not in the table.
    """
    if name not in DAMAGES:
        raise InputError(f"there is no damage '{name}': choose from {', '.join(DAMAGES)}")
    return DAMAGES[name].apply(clip_CTHW, grade, torch.Generator().manual_seed(seed))


@torch.inference_mode()
def restored(made: Generator, vae: VideoVAE, low_BCTHW: Tensor, seed: int) -> Tensor:
    """Low-quality clips of full size, restored with the steps that the model is meant for."""
    latent_BCTHW = vae.to_latent(low_BCTHW)
    noise_BCTHW = torch.randn(latent_BCTHW.shape, generator=torch.Generator().manual_seed(seed))
    return vae.to_clips(made.restore(latent_BCTHW, noise_BCTHW)).clamp(0, 1)


def reasons(metrics: Sequence[str], clip_CTHW: Tensor) -> dict[str, str]:
    """Why metrics have no number for clips like this one, by those that have none."""
    answers = {metric: measure(metric, blurred(clip_CTHW, 1), clip_CTHW) for metric in metrics}
    return {metric: str(answer) for metric, answer in answers.items() if isinstance(answer, Unavailable)}


def mean_reading(metric: str, clips: Sequence[Tensor], originals: Sequence[Tensor]) -> float:
    """The mean over clips; those without a number are left out."""
    values = [measure(metric, *pair) for pair in zip(clips, originals, strict=True)]
    return fmean(value for value in values if not isinstance(value, Unavailable))


def cost(metric: str, value: float) -> float:
    """A metric's value so that lower is better; how many times too much or too little for "nearer 1"."""
    match METRICS[metric].better:
        case "higher":
            return -value
        case "lower":
            return value
        case "nearer 1":
            return abs(log(max(value, 1e-6)))


def survey(
    originals: Mapping[tuple[int, int], Tensor], metrics: Sequence[str], grades: Sequence[int]
) -> dict[tuple[int, int], Readings]:
    """Every metric's cost of every damage to every clip.

    Args:
        originals: (seed, number) -> clip; both decide about the noise.
        metrics: that have numbers for these clips.
        grades: which of a damage's grades, from mild to strong.

    Returns:
        Of each clip: damage -> metric -> cost at each grade; nan where a metric has no number for that one.
    """
    work = [(key, name) for key in originals for name in DAMAGES]
    found = {key: {} for key in originals}
    for key, name in progress(work, "damages", unit="damage"):
        seed, number = key
        clips = [damaged(originals[key], name, DAMAGES[name].grades[grade], 1000 * seed + number) for grade in grades]
        found[key][name] = {
            metric: [
                np.nan if isinstance(value, Unavailable) else cost(metric, value)
                for value in (measure(metric, clip, originals[key]) for clip in clips)
            ]
            for metric in metrics
        }
    return found


def agreement(costs: Sequence[float]) -> float:
    """How a metric ranks grades of rising damage: 1 all pairs right, 0 blind or at random, -1 all wrong.

    Kendall's tau a: a pair counts 0 if both cost the same. nan if one has no number.
    """
    signs = [
        np.sign(strong - mild) if abs(strong - mild) > TIE * max(abs(strong), abs(mild)) else 0.0
        for mild, strong in combinations(costs, 2)
    ]
    return float(np.mean(signs)) if np.isfinite(costs).all() else np.nan


def agreement_table(readings: Sequence[Readings]) -> dict[str, dict[str, float]]:
    """damage -> metric -> `agreement`, the mean over clips."""
    return _over_clips(readings, lambda costs, metric: agreement(costs))


def response_table(readings: Sequence[Readings]) -> dict[str, dict[str, float]]:
    """damage -> metric -> what the strongest grade costs more than the mildest, the mean over clips.

    In standard deviations of the metric's cost over all damages, grades and clips.
    """
    metrics = next(iter(readings[0].values()))
    spread = {metric: np.nanstd([row[metric] for each in readings for row in each.values()]) for metric in metrics}
    return _over_clips(readings, lambda costs, metric: (costs[-1] - costs[0]) / spread[metric])


def _over_clips(
    readings: Sequence[Readings], of: Callable[[Sequence[float], str], float]
) -> dict[str, dict[str, float]]:
    return {
        name: {metric: float(np.nanmean([of(each[name][metric], metric) for each in readings])) for metric in row}
        for name, row in readings[0].items()
    }


def damage_map(table: Mapping[str, Mapping[str, float]], limit: float, label: str) -> "Figure":
    """A number for each damage (rows) and metric (columns); blue is above 0, red below."""
    rows, columns = list(table), list(next(iter(table.values())))
    values = np.array([list(row.values()) for row in table.values()])
    figure, axes = new_figure(height=1.5 + 0.3 * len(rows))
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for place, value in np.ndenumerate(values):
        color = "white" if abs(value) > 0.6 * limit else "black"
        text = f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")  # + 0.0: no -0.0
        axes.text(*place[::-1], text, ha="center", va="center", size=9, color=color)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.grid(False)
    figure.colorbar(image, label=label)
    return figure
