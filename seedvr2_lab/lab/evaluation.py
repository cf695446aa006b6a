"""How good restorers are, on pictures and footage that nothing was ever chosen or trained on."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.lab.gallery import ORIGINAL
from seedvr2_lab.media.clips import EVALUATION, load_picture
from seedvr2_lab.media.degrade import PRESETS, degrade, resize
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.metrics import Unavailable, measure
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.restore import Restorer

METRICS = ("psnr", "ssim", "texture", "spectrum", "high_frequency", "gmsd", "piqe", "flicker")
BICUBIC, CEILING, CONTROL = "bicubic", "VAE alone", "distilled + noise"
FOOTAGE_FRAMES = 17

Keep = Callable[[str, str, Tensor], None]  # (case, method, clip); of a case the original comes first
Row = dict[str, str | float]  # source, preset, method and the metrics that could be measured


class Method(NamedTuple):
    """A model and with how many steps it is used, such as "tiny" or "teacher@8"."""

    name: str
    restorer: Restorer
    steps: int | None


@torch.inference_mode()
def evaluate(
    models: Sequence[str] = ("tiny",),
    presets: Sequence[str] = ("simple",),
    seeds: Sequence[int] = (0, 1, 2),
    footage: str | Path | None = None,
    device: str = "cpu",
    keep: Keep = lambda case, method, clip: None,
) -> list[Row]:
    """Bicubic interpolation, the models, and the VAE alone, which is their ceiling.

    Every picture, and a clip from the middle of the footage, is degraded x4 by each preset once a seed; figures are
    means over seeds. Where both `distilled` and `tiny` are among the models there is a control: the distilled model's
    result plus white noise as strong as its difference from that of `tiny`, the model after adversarial training.

    Args:
        models: names or files, with `@8` behind them for 8 steps instead of the model's own number.
        presets: of `degrade`.
        footage: a video file.
        keep: called with what came out for the first of the seeds, to look at (see `Gallery`).

    Raises:
        InputError: there is no such model, preset or file, or two models have one name.
    """
    if unknown := [name for name in presets if name not in PRESETS]:
        raise InputError(f"there is no preset '{unknown[0]}': choose from {', '.join(PRESETS)}")
    methods = [_method(model, device) for model in models]
    names = [method.name for method in methods]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two models are called '{twice[0]}' here: rename one of the files")
    cases = [(name, load_picture(name)[:, None]) for name in EVALUATION]
    if footage:
        cases.append((Path(footage).name, middle_of(footage)))
    table = []
    for (source, clip_CTHW), preset in progress([*product(cases, presets)], "evaluate", unit="clip"):
        scale = PRESETS[preset].scale
        reference = clip_CTHW[..., : clip_CTHW.shape[2] // scale * scale, : clip_CTHW.shape[3] // scale * scale]
        rows: dict[str, list[dict[str, float]]] = {}
        case = f"{Path(source).stem}, {preset}"
        keep(case, ORIGINAL, reference)
        for seed in seeds:
            for method, output in _outputs(methods, reference, preset, seed):
                rows.setdefault(method, []).append(_measured(output, reference))
                if seed == seeds[0]:
                    keep(case, method, output)
        for method, found in rows.items():
            means = {metric: fmean(row[metric] for row in found) for metric in found[0]}
            table.append({"source": source, "preset": preset, "method": method} | means)
    return table


def noise_instead(before: Tensor, after: Tensor, seed: int) -> Tensor:
    """A clip in [0, 1] with white noise of the same energy (before clipping) as what something changed in it."""
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
    return (before + (after - before).square().mean().sqrt() * noise).clamp(0, 1)


def alignment(before: Tensor, after: Tensor, original: Tensor) -> float:
    """Cosine of what something changed in a clip with what was missing: 1 if it leads to the original, -1 if it leads
    away, 0 for noise. What is added to the mean of all possible originals is as unrelated to what is missing."""
    change, missing = after - before, original - before
    return float(F.cosine_similarity(change.double().flatten(), missing.double().flatten(), dim=0))


def middle_of(path: str | Path, frames: int = FOOTAGE_FRAMES) -> Tensor:
    """Successive frames from the middle of a video, (3, T, H, W) in [0, 1]."""
    reader = VideoReader(Path(path))
    first = max(0, (reader.info.frames - frames) // 2)
    rows = list(range(first, min(reader.info.frames, first + frames)))
    return torch.from_numpy(reader.sample(rows).frames_THWC).permute(3, 0, 1, 2).float() / 255


@torch.no_grad()
def vae_round_trip(vae: VideoVAE, clip_CTHW: Tensor) -> Tensor:
    """A clip in [0, 1] encoded and decoded: what no restoration in this latent space can beat."""
    T, H, W = clip_CTHW.shape[1:]
    space, time = vae.config.spatial_factor, vae.config.temporal_factor
    padding = (0, -W % space, 0, -H % space, 0, -(T - 1) % time)
    padded = F.pad(clip_CTHW[None], padding, mode="replicate")
    return vae.to_clips(vae.to_latent(padded, chunk=1), chunk=1)[0, :, :T, :H, :W].clamp(0, 1)


def as_markdown(table: Sequence[Row]) -> str:
    """A table for each preset: the methods' means over the pictures, then those on the footage."""
    pictures = [row for row in table if row["source"] in EVALUATION]
    footage = [row for row in table if row["source"] not in EVALUATION]
    parts = [part for part in (pictures, footage) if part]
    return "\n\n".join(
        _one_table(part, preset) for part in parts for preset in dict.fromkeys(r["preset"] for r in part)
    )


def _one_table(table: Sequence[Row], preset: str) -> str:
    table = [row for row in table if row["preset"] == preset]
    metrics = [metric for metric in METRICS if all(metric in row for row in table)]
    sources = ", ".join(dict.fromkeys(str(row["source"]) for row in table))
    lines = [f"| `{preset}`: {sources} | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in table):
        rows = [row for row in table if row["method"] == method]
        cells = [
            f"{fmean(row[metric] for row in rows):.{2 if metric in ('psnr', 'piqe') else 3}f}" for metric in metrics
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _method(model: str, device: str) -> Method:
    name, _, steps = model.partition("@")
    if steps and not (steps.isdigit() and int(steps)):
        raise InputError(f"model '{model}' asks for '{steps}' steps: give a number of at least 1 behind the @")
    restorer = Restorer.load(name, device=device)
    label = model.replace(name, Path(name).stem.removeprefix("dit_")) if Path(name).is_file() else model
    return Method(label, restorer, int(steps) if steps else None)


def _outputs(methods: Sequence[Method], reference: Tensor, preset: str, seed: int) -> Iterator[tuple[str, Tensor]]:
    low = degrade(reference, torch.Generator().manual_seed(seed), PRESETS[preset])
    size = tuple(reference.shape[2:])
    yield BICUBIC, resize(low.transpose(0, 1), size).transpose(0, 1)
    restored = {}
    for name, restorer, steps in methods:
        restored[name] = restorer(low, size, seed, steps=steps)
        yield name, restored[name]
    if {"distilled", "tiny"} <= set(restored):
        yield CONTROL, noise_instead(restored["distilled"], restored["tiny"], seed)
    yield CEILING, vae_round_trip(methods[0].restorer.vae, reference)


def _measured(output: Tensor, reference: Tensor) -> dict[str, float]:
    found = {metric: measure(metric, output, reference) for metric in METRICS}
    return {metric: value for metric, value in found.items() if not isinstance(value, Unavailable)}
