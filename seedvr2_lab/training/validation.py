"""What a training shows of itself: figures and pictures of restored validation crops."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from seedvr2_lab.media.clips import Part, sample_clips
from seedvr2_lab.metrics import Unavailable, measure
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator
from seedvr2_lab.training.pairs import Pairs, latent_pair

Figures = dict[str, float]
METERS = ("psnr", "ssim", "texture", "spectrum", "high_frequency")
RATIOS = ("texture", "high_frequency")
CROP = 96  # the right quarter of most training pictures is wider
CLIPS = 16  # of each length


class Crops(NamedTuple):
    """Validation clips in [0, 1], their latents and those of their low-quality twins, and noise to restore from."""

    clips_BCTHW: Tensor
    pairs: Pairs
    noise_BCTHW: Tensor


@torch.no_grad()
def crops_of(
    part: Part, vae: VideoVAE, presets: Sequence[str], frames: int, count: int = CLIPS, seed: int = 1000
) -> Crops:
    """Crops of a part of the data: the same for everybody who asks. What is chosen by them takes "validation"."""
    random = torch.Generator().manual_seed(seed)
    clips = sample_clips(part, count, frames, (CROP, CROP), random)
    pairs = latent_pair(vae, clips, random, presets)
    return Crops(clips, pairs, torch.randn(pairs.low_BCTHW.shape, generator=random))


@torch.no_grad()
def vae_validation(vae: VideoVAE) -> Figures:
    """Reconstruction of validation crops by the number of frames (PSNR in dB, SSIM)."""
    figures = {}
    for frames in (1, 5, 17):
        clips = sample_clips("validation", CLIPS, frames, (CROP, CROP), torch.Generator().manual_seed(1000))
        outputs = vae.to_clips(vae.to_latent(clips)).clamp(0, 1)
        found = mean_figures(outputs, clips, ("psnr", "ssim"))
        figures |= {f"{meter}, {frames} frames": value for meter, value in found.items()}
    return figures


@torch.no_grad()
def generator_validation(
    restore: Callable[[Tensor, Tensor], Tensor],
    vae: VideoVAE,
    presets: Sequence[str],
    lengths: Sequence[int] = (1, 5),
    count: int = CLIPS,
) -> Figures:
    """Figures of `restore(low, noise)` on validation latents, beside those of the low-quality and the true latents."""
    figures = {}
    for frames in lengths:
        crops = crops_of("validation", vae, presets, frames, count)
        restored = restore(crops.pairs.low_BCTHW, crops.noise_BCTHW)
        for name, latent in {
            "input": crops.pairs.low_BCTHW,
            "restored": restored,
            "vae": crops.pairs.high_BCTHW,
        }.items():
            outputs = vae.to_clips(latent).clamp(0, 1)
            found = mean_figures(outputs, crops.clips_BCTHW)
            figures |= {f"{meter}, {name}, {frames} frames": value for meter, value in found.items()}
    return figures


def mean_figures(outputs: Tensor, clips: Tensor, meters: Sequence[str] = METERS) -> Figures:
    """Each meter over the clips: the mean, but for the ratios, which a clip almost without texture would rule."""
    figures = {}
    for meter in meters:
        values = [measure(meter, *pair) for pair in zip(outputs, clips, strict=True)]
        values = [value for value in values if not isinstance(value, Unavailable)]
        value = median(values) if meter in RATIOS else fmean(values)
        figures[meter] = round(float(value), 4)
    return figures


class Samples:
    """Draws a picture of a few validation crops at every checkpoint of a training, into its folder as
    `step_000200.png` after 200 steps: from top down what is given, what becomes of it, and the original."""

    COUNT = 6

    def __init__(self, vae: VideoVAE, presets: Sequence[str], folder: Path, made: Generator, player: str = "model"):
        """`made` is what is being trained, under the name `player` in the loop, with its texts on its device."""
        self.vae, self.folder, self.made, self.player = vae, folder, made, player
        self.crops = cache(lambda: crops_of("validation", vae, presets, 1, self.COUNT))

    @torch.no_grad()
    def __call__(self, done: int, networks: Mapping[str, nn.Module]) -> None:
        pairs, noise = self.crops().pairs, self.crops().noise_BCTHW
        made = self.made._replace(dit=networks[self.player])
        restored = made.restore(pairs.low_BCTHW.to(made.text), noise.to(made.text)).to(noise)
        rows = [self.vae.to_clips(latent).clamp(0, 1) for latent in (pairs.low_BCTHW, restored, pairs.high_BCTHW)]
        pixels = rearrange(torch.stack(rows), "R B C 1 H W -> (R H) (B W) C")
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).round().byte().numpy()).save(self.folder / f"step_{done:06}.png")
